//! Numbers and times as people read them.

/// A number as short as a reader needs it; one that is not finite as it is.
pub fn short(value: f64) -> String {
    let trimmed = |text: String| {
        let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
        if text == "-0" { "0".to_owned() } else { text.to_owned() }
    };
    match value.abs() {
        size if !size.is_finite() => value.to_string(),
        size if size >= 999_500.0 => format!("{}M", trimmed(format!("{:.2}", value / 1e6))),
        size if size >= 10_000.0 => format!("{}k", trimmed(format!("{:.1}", value / 1e3))),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 1.0 => trimmed(format!("{value:.2}")),
        size if size >= 0.01 => trimmed(format!("{value:.3}")),
        size if size < 1e-12 => "0".into(),
        _ => {
            let text = format!("{value:.1e}");
            text.replace(".0e", "e")
        }
    }
}

/// A time as a person says it.
pub fn spoken(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let cases = [
            (0.0, "0"),
            (1_234_000.0, "1.23M"),
            (999_900.0, "1M"),
            (12_345.0, "12.3k"),
            (20_000.0, "20k"),
            (600.0, "600"),
            (5.25, "5.25"),
            (-3.0, "-3"),
            (0.05, "0.05"),
            (2.5e-4, "2.5e-4"),
            (1e-4, "1e-4"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "NaN"),
        ];
        for (value, text) in cases {
            assert_eq!(short(value), text, "{value}");
        }
    }

    #[test]
    fn times() {
        for (seconds, text) in
            [(59.6, "60 s"), (600.0, "10 min"), (9000.0, "2.5 h"), (864_000.0, "10.0 days")]
        {
            assert_eq!(spoken(seconds), text);
        }
    }
}
