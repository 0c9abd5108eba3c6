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
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
