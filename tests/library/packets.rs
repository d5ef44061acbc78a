//! Packets go where they should; no privilege needed, and nothing is sent.

use std::error::Error;
use std::path::Path;

use svcnat::verify;

#[test]
fn packets_go_where_they_should() -> Result<(), Box<dyn Error>> {
    let (node, packets) = verify::folder(Path::new("rulesets/01-lab"))?;
    let checks = verify::model(&node, &packets)?;
    let failed = verify::failures(&checks);
    assert!(failed.is_empty(), "{failed}");
    Ok(())
}
