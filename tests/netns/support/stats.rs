//! Is a spread as even as it should be?

/// Pearson's statistic of counts against weights.
///
/// Both are of one length; a weight of 0 with a count of 0 adds nothing.
pub fn chi_square(counts: &[u64], weights: &[u64]) -> f64 {
    assert_eq!(counts.len(), weights.len(), "a weight for every count");
    let total = as_f64(counts.iter().sum());
    let weight = as_f64(weights.iter().sum());
    counts
        .iter()
        .zip(weights)
        .filter(|(count, weight)| **count > 0 || **weight > 0)
        .map(|(count, share)| {
            let expected = total * as_f64(*share) / weight;
            (as_f64(*count) - expected).powi(2) / expected
        })
        .sum()
}

/// The value that [`chi_square`] exceeds by chance about once in 300,000 times, by the cube
/// root approximation of Wilson and Hilferty.
pub fn chi_square_limit(degrees: usize) -> f64 {
    const DEVIATIONS: f64 = 4.5;
    let k = as_f64(degrees as u64);
    let part = 2.0 / (9.0 * k);
    k * (1.0 - part + DEVIATIONS * part.sqrt()).powi(3)
}

/// Fails unless the counts are as expected from the weights by chance.
#[track_caller]
pub fn assert_spread(counts: &[u64], weights: &[u64]) {
    if counts.len() > 1 {
        let (value, limit) = (
            chi_square(counts, weights),
            chi_square_limit(counts.len() - 1),
        );
        assert!(
            value < limit,
            "chi-square {value:.1}, at most {limit:.1} expected: {counts:?}"
        );
    }
}

/// Exact below 2^53.
#[allow(clippy::cast_precision_loss)]
fn as_f64(n: u64) -> f64 {
    n as f64
}

#[test]
fn even_counts_pass_and_skewed_ones_do_not() {
    assert_spread(&[5012, 4988, 5003, 4997], &[1, 1, 1, 1]);
    assert_spread(&[9900, 5050, 5050], &[2, 1, 1]);
    assert!(chi_square(&[5400, 4600], &[1, 1]) > chi_square_limit(1));
    // Tables give 10.83 for one in a thousand at one degree of freedom, 20.5 for ours.
    assert!((15.0..25.0).contains(&chi_square_limit(1)));
}
