/// The file of a run's folder that says what it is, and what it began with.
pub const DESCRIPTION: &str = "run.json";

/// The folder in a run's where a watcher leaves samples, each as [`sample_file`] names it.
pub const SAMPLES: &str = "samples";

/// Name of the samples that are drawn after so many steps.
pub fn sample_file(step: usize) -> String {
    step_name(step) + ".png"
}

/// The step after which samples of this name were drawn.
pub fn step_of_sample(name: &str) -> Option<usize> {
    step_number(name.strip_suffix(".png")?)
}

/// Name of what belongs to a step, but for an ending.
pub(crate) fn step_name(step: usize) -> String {
    format!("step-{step:08}")
}

/// The step that has this name.
pub(crate) fn step_number(name: &str) -> Option<usize> {
    let digits = name.strip_prefix("step-")?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_its_own_name() {
        for step in [0, 7, 123_456_789] {
            assert_eq!(step_of_sample(&sample_file(step)), Some(step));
        }
        for other in ["step-.png", "step-+5.png", "step-x.png", "step-00000005", "other.png"] {
            assert_eq!(step_of_sample(other), None, "{other}");
        }
    }
}
