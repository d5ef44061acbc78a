//! Is a spread as even as it should be?

/// Pearson's statistic of counts against weights, of one length; a weight of 0 with a count of 0
/// adds nothing.
#[must_use]
pub fn chi_square(counts: &[u64], weights: &[f64]) -> f64 {
    let total = as_f64(counts.iter().sum());
    let weight: f64 = weights.iter().sum();
    counts
        .iter()
        .zip(weights)
        .filter(|(count, weight)| **count > 0 || **weight > 0.0)
        .map(|(count, share)| {
            let expected = total * share / weight;
            (as_f64(*count) - expected).powi(2) / expected
        })
        .sum()
}

/// The value that [`chi_square`] exceeds by chance about once in 300,000 times, by the cube
/// root approximation of Wilson and Hilferty.
#[must_use]
pub fn chi_square_limit(degrees: usize) -> f64 {
    const DEVIATIONS: f64 = 4.5;
    let k = as_f64(degrees as u64);
    let part = 2.0 / (9.0 * k);
    k * (1.0 - part + DEVIATIONS * part.sqrt()).powi(3)
}

/// Whether counts are as expected from the weights by chance.
///
/// # Errors
/// If they are not, in words.
pub fn spread(counts: &[u64], weights: &[f64]) -> Result<(), String> {
    if counts.len() < 2 {
        return Ok(());
    }
    let value = chi_square(counts, weights);
    let limit = chi_square_limit(counts.len() - 1);
    match value < limit {
        true => Ok(()),
        false => Err(format!(
            "chi-square {value:.1}, at most {limit:.1} expected: {counts:?}"
        )),
    }
}

/// Exact below 2^53.
#[expect(clippy::cast_precision_loss, reason = "counts of packets")]
fn as_f64(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_counts_pass_and_skewed_ones_do_not() {
        assert_eq!(spread(&[5012, 4988, 5003, 4997], &[1.0; 4]), Ok(()));
        assert_eq!(spread(&[9900, 5050, 5050], &[2.0, 1.0, 1.0]), Ok(()));
        assert!(spread(&[5400, 4600], &[1.0, 1.0]).is_err());
        // Tables give 10.83 for one in a thousand at one degree of freedom, 20.5 for ours.
        assert!((15.0..25.0).contains(&chi_square_limit(1)));
    }
}
