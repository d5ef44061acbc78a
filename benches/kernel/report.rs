//! Figures: a table for people, JSON for programs, a chart.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// Measured times.
#[derive(Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    pub fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// The median, in microseconds; `None` without samples.
    pub fn median(&self) -> Option<f64> {
        (!self.0.is_empty()).then(|| self.quantiles().1)
    }

    /// Least, median, 99th percentile, in microseconds.
    fn quantiles(&self) -> (f64, f64, f64) {
        let mut sorted = self.0.clone();
        sorted.sort();
        let at = |share: usize| {
            let i = (sorted.len() * share / 100).min(sorted.len() - 1);
            sorted[i].as_secs_f64() * 1e6
        };
        (at(0), at(50), at(99))
    }
}

/// Everything measured.
#[derive(Default)]
pub struct Report {
    rows: Vec<(String, String, Row)>,
}

enum Row {
    Time {
        min: f64,
        p50: f64,
        p99: f64,
        count: usize,
    },
    Value(f64),
}

impl Report {
    pub fn time(&mut self, what: &str, of: &str, samples: &Samples) {
        if samples.0.is_empty() {
            return;
        }
        let (min, p50, p99) = samples.quantiles();
        println!(
            "{what:48} {of:36} p50 {:>12}  p99 {:>12}  min {:>12}  n={}",
            show(p50),
            show(p99),
            show(min),
            samples.0.len()
        );
        let row = Row::Time {
            min,
            p50,
            p99,
            count: samples.0.len(),
        };
        self.rows.push((what.to_owned(), of.to_owned(), row));
    }

    /// The largest value of a name counts.
    pub fn value(&mut self, what: &str, of: &str, value: f64) {
        let same = |(w, o, _): &&(String, String, Row)| (w.as_str(), o.as_str()) == (what, of);
        if let Some((.., Row::Value(known))) = self.rows.iter().find(same)
            && *known >= value
        {
            return;
        }
        self.rows
            .retain(|(w, o, _)| (w.as_str(), o.as_str()) != (what, of));
        self.rows
            .push((what.to_owned(), of.to_owned(), Row::Value(value)));
    }

    fn json(&self) -> Value {
        let rows = self.rows.iter().map(|(what, of, row)| match row {
            Row::Time { min, p50, p99, count } => json!({"what": what, "of": of, "minMicros": min, "p50Micros": p50, "p99Micros": p99, "samples": count}),
            Row::Value(value) => json!({"what": what, "of": of, "value": value}),
        });
        json!({"machine": machine(), "figures": rows.collect::<Vec<_>>()})
    }

    /// Bars on a logarithmic scale: medians of everything timed.
    fn chart(&self) -> String {
        let bars: Vec<(String, f64)> = self
            .rows
            .iter()
            .filter_map(|(what, of, row)| match row {
                Row::Time { p50, .. } => Some((format!("{what}: {of}"), *p50)),
                Row::Value(_) => None,
            })
            .collect();
        let mut out = String::new();
        let height = 18 * bars.len() + 30;
        let _ = writeln!(
            out,
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="1100" height="{height}" font-family="sans-serif" font-size="11">"#
        );
        let _ = writeln!(
            out,
            r#"<text x="4" y="16">median, logarithmic scale from 1 microsecond</text>"#
        );
        for (i, (name, micros)) in bars.iter().enumerate() {
            let y = 18 * i + 24;
            let width = (micros.max(1.0).log10() * 65.0).max(1.0);
            let name = name.replace('&', "&amp;").replace('<', "&lt;");
            let colour = if name.contains("kube-proxy") || name.contains("nft -f") {
                "#c66"
            } else {
                "#69c"
            };
            let _ = writeln!(
                out,
                r#"<text x="4" y="{}">{name}</text><rect x="560" y="{y}" width="{width:.0}" height="13" fill="{colour}"/><text x="{:.0}" y="{}">{}</text>"#,
                y + 11,
                566.0 + width,
                y + 11,
                show(*micros)
            );
        }
        out.push_str("</svg>\n");
        out
    }

    /// Prints values, writes results.json and chart.svg.
    pub fn finish(&self, folder: &Path) {
        for (what, of, row) in &self.rows {
            if let Row::Value(value) = row {
                println!("{what:48} {of:36} {value}");
            }
        }
        std::fs::create_dir_all(folder).expect("the output folder");
        std::fs::write(folder.join("results.json"), format!("{:#}\n", self.json()))
            .expect("results");
        std::fs::write(folder.join("chart.svg"), self.chart()).expect("chart");
        println!(
            "written: {0}/results.json and {0}/chart.svg",
            folder.display()
        );
    }
}

fn show(micros: f64) -> String {
    if micros >= 1e6 {
        format!("{:.2} s", micros / 1e6)
    } else if micros >= 1e3 {
        format!("{:.2} ms", micros / 1e3)
    } else {
        format!("{micros:.1} us")
    }
}

fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .unwrap_or_default();
    json!({
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "cpu": model.trim_start_matches(['\t', ' ', ':']),
        "cpus": std::thread::available_parallelism().map_or(0, usize::from),
    })
}
