//! Is a spread as even as it should be?

use svcnat::verify::spread;

/// Fails unless the counts are as expected from the weights by chance.
#[track_caller]
pub fn assert_spread(counts: &[u64], weights: &[u64]) {
    assert_eq!(counts.len(), weights.len(), "a weight for every count");
    #[allow(clippy::cast_precision_loss, reason = "weights are small")]
    let weights: Vec<f64> = weights.iter().map(|weight| *weight as f64).collect();
    spread(counts, &weights).unwrap_or_else(|what| panic!("{what}"));
}
