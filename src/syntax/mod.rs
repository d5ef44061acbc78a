//! Text as it was written, whatever it is about: encodings, documents of YAML and JSON, fields
//! that are there twice or null, addresses and names. Knows no kind of object and no setting.

mod documents;
mod fields;
mod nulls;
pub mod parse;
mod scalars;

pub use documents::{Document, documents};
pub use fields::{Fields, fields_of};
pub use nulls::drop_nulls;
pub use scalars::{address, name_problem, prefix};
