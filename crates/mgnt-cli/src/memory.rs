//! How the process gets its memory.

/// Tells the allocator to keep what tensors free, since the next operation asks for as much again: otherwise the
/// system clears the same pages anew for every tensor, about a fifth of a small training step.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn keep_freed_memory() {
    const PAD: i32 = 64 << 20;
    // SAFETY: mallopt only sets parameters of the allocator, and no other thread runs yet. A refused value leaves
    // the default, which is right as well.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_TOP_PAD, PAD);
    }
}

/// Other allocators are left as they are.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn keep_freed_memory() {}

/// The most memory that the process has held so far, where the system tells.
pub fn peak_bytes() -> Option<u64> {
    bytes_of(&std::fs::read_to_string("/proc/self/status").ok()?, "VmHWM")
}

/// Bytes of the line `name: N kB`, as Linux writes them.
pub fn bytes_of(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_kibibytes_is_found_by_its_whole_name() {
        let text = "VmPeak:\t      99 kB\nVmHWM:\t       7 kB\nThreads:\t3\n";
        assert_eq!(bytes_of(text, "VmHWM"), Some(7 << 10));
        assert_eq!([bytes_of(text, "Vm"), bytes_of(text, "Threads")], [None, None]);
    }
}
