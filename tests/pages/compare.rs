//! Whether a program printed what a page says, but for figures that are others each time.

/// A line of a page that stands for any number of lines.
pub const ANYTHING: &str = "...";

/// Numbers after these differ from run to run,
const AFTER: [&str; 6] = [
    "generation",
    "generation=",
    "process",
    "pid=",
    "Micros=",
    "_us=",
];
/// and those before these.
const BEFORE: [&str; 3] = [" µs", " ms", " s,"];

/// True if both say the same.
pub fn agrees(expected: &str, printed: &str) -> bool {
    // An empty line sets the next command apart.
    let lines = |text: &str| -> Vec<String> {
        let lines = text.trim_end().lines();
        lines.map(without_figures).collect()
    };
    let (expected, printed) = (lines(expected), lines(printed));
    let mut printed = &printed[..];
    let mut parts = expected.split(|line| line == ANYTHING);
    let first = parts.next().unwrap_or_default();
    let Some(rest) = printed.strip_prefix(first) else {
        return false;
    };
    printed = rest;
    let mut parts: Vec<&[String]> = parts.collect();
    let Some(last) = parts.pop() else {
        return printed.is_empty();
    };
    let Some(mut printed) = printed.strip_suffix(last) else {
        return false;
    };
    for part in parts.into_iter().filter(|part| !part.is_empty()) {
        let Some(at) = printed.windows(part.len()).position(|lines| lines == part) else {
            return false;
        };
        printed = &printed[at + part.len()..];
    }
    true
}

/// A line with `#` for every figure that differs from run to run.
fn without_figures(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line.trim_end();
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, number) = rest.split_at(start);
        out.push_str(before);
        let time = number.find(|c: char| !(c.is_ascii_digit() || "-T:.Z".contains(c)));
        let time = number[..time.unwrap_or(number.len())].trim_end_matches([':', '.', '-']);
        let after_time = &number[time.len()..];
        if time.len() >= 20 && time.contains('T') && time.ends_with('Z') {
            out.push('#');
            rest = after_time;
            continue;
        }
        let end = number.find(|c: char| !(c.is_ascii_digit() || c == '.'));
        let (number, after) = number.split_at(end.unwrap_or(number.len()));
        let varies = AFTER.iter().any(|word| out.trim_end().ends_with(word))
            || BEFORE.iter().any(|unit| after.starts_with(unit));
        out.push_str(if varies { "#" } else { number });
        rest = after;
    }
    out + rest
}

#[test]
fn figures_that_differ_each_time_are_no_difference_and_all_others_are() {
    for (page, printed, same) in [
        ("took 12 µs, generation 3", "took 9 µs, generation 17", true),
        ("3 elements", "4 elements", false),
        (
            "(process 42, since 2026-11-26T10:32:51Z)",
            "(process 7, since 2027-01-01T00:00:00.5Z)",
            true,
        ),
        (
            "until 2026-11-26T10:32:51Z: x",
            "until 2027-01-01T00:00:00Z: x",
            true,
        ),
        (
            "until 2026-11-26T10:32:51Z: x",
            "until 2027-01-01T00:00:00Z: y",
            false,
        ),
        ("generation  4", "generation  5", true),
        ("commit_us=472 rules=1", "commit_us=1 rules=1", true),
        ("commit_us=472 rules=1", "commit_us=472 rules=2", false),
        ("10.254.0.1:80", "10.254.0.2:80", false),
        ("a\n...\nd", "a\nb\nc\nd", true),
        ("a\n...\nd", "a\nd", true),
        ("a\n...\nd", "a\nb", false),
        ("...\nb\n...", "a\nb\nc", true),
        ("...\nx\n...", "a\nb\nc", false),
        ("a", "a\nb", false),
        ("", "a", false),
    ] {
        assert_eq!(agrees(page, printed), same, "{page:?} {printed:?}");
    }
}
