//! The lines of `packets.txt`: a packet and what becomes of it, out of what
//! `svcnat explain -o json` says. Tests with and without real packets write them alike.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use serde_json::Value;

/// `SOURCE DESTINATION -> END`, of a packet and what `explain` says of it.
pub fn line(source: &str, destination: &str, said: &Value) -> String {
    let candidates: Vec<String> = said["candidates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| {
            let share = c["probability"].as_f64().unwrap() * 100.0;
            let seen = if c["masqueraded"] == true {
                " masqueraded"
            } else {
                ""
            };
            format!(
                "{} {} {share:.2}%{seen}",
                c["address"].as_str().unwrap(),
                c["port"]
            )
        })
        .collect();
    let remembered = match said["frontend"]["affinitySeconds"].as_u64() {
        Some(seconds) if !candidates.is_empty() => format!("; remembered for {seconds} s"),
        _ => String::new(),
    };
    let end = match (said["fate"].as_str().unwrap(), candidates.is_empty()) {
        ("accepted", true) if said["masqueraded"] == true => "untranslated, masqueraded".to_owned(),
        ("accepted", true) => "untranslated".to_owned(),
        ("accepted", false) => candidates.join(", ") + &remembered,
        (other, _) => other.to_owned(),
    };
    format!("{source} {destination} -> {end}")
}
