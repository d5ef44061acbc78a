//! The service range as the API server was given it: out of a unit file or a static-pod
//! manifest, as one would do with grep.

use std::path::Path;

use ipnet::IpNet;

use super::fields::prefix;
use super::{SourceError, read_error};

const FLAG: &str = "--service-cluster-ip-range";

/// Finds the flag's value, with `=` or as the next word, in any text that has it.
///
/// # Errors
/// If the file cannot be read, lacks the flag, or the value is no list of prefixes.
pub fn service_ranges_from(file: &Path) -> Result<Vec<IpNet>, SourceError> {
    let text = std::fs::read_to_string(file).map_err(read_error(file))?;
    ranges(&text).map_err(|message| SourceError::Content {
        path: file.display().to_string(),
        message,
    })
}

fn ranges(text: &str) -> Result<Vec<IpNet>, String> {
    let text: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .collect::<Vec<_>>()
        .join("\n")
        .replace("\\\n", " ");
    let separators = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '[' | ']');
    let mut words = text
        .split(separators)
        .filter(|w| !matches!(*w, "" | "-" | ","));
    let value = words
        .find_map(|word| {
            let word = word.trim_end_matches(',');
            // systemd environment files write KEY="--flag=value".
            let at = word.find(FLAG)?;
            word.get(at + FLAG.len()..).map(str::to_owned)
        })
        .ok_or_else(|| format!("has no {FLAG}"))?;
    let value = match value.strip_prefix('=') {
        Some(value) => value.to_owned(),
        None => words
            .next()
            .unwrap_or_default()
            .trim_end_matches(',')
            .to_owned(),
    };
    value
        .split(',')
        .map(|part| match prefix(part) {
            Some(net) if net.addr() == net.network() => Ok(net),
            _ => Err(format!(
                "{FLAG}: {part:?} is not a prefix such as 10.254.0.0/16"
            )),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_files_and_manifests_give_the_same_range() {
        let unit = "[Service]\nExecStart=/usr/bin/kube-apiserver \\\n  --etcd=x \\\n  --service-cluster-ip-range=10.254.0.0/16\n";
        let pod = "spec:\n  containers:\n  - command:\n    - kube-apiserver\n    - --service-cluster-ip-range=10.254.0.0/16\n";
        let environment = "KUBE_SERVICE_ADDRESSES=\"--service-cluster-ip-range=10.254.0.0/16\"\n";
        let words = "args: [\"--service-cluster-ip-range\", \"10.254.0.0/16\"]";
        for text in [unit, pod, environment, words] {
            assert_eq!(
                ranges(text),
                Ok(vec!["10.254.0.0/16".parse().unwrap()]),
                "{text}"
            );
        }
    }

    #[test]
    fn dual_stack_is_a_comma_list_and_comments_do_not_count() {
        let text = "# --service-cluster-ip-range=1.0.0.0/8\n--service-cluster-ip-range=10.254.0.0/16,fd00::/108";
        assert_eq!(ranges(text).map(|r| r.len()), Ok(2));
        assert!(ranges("nothing").is_err_and(|e| e.contains("has no")));
        assert!(ranges("--service-cluster-ip-range=10.254.0.1/16").is_err());
    }
}
