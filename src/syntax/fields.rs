//! Which fields or variants a type has, asked of its own reader.

use std::cell::Cell;

use serde::Deserialize;
use serde::de::value::Error;
use serde::de::{Deserializer, Error as _, Visitor};

/// Names of fields, or of variants.
pub type Fields = &'static [&'static str];

/// The fields of a struct, or the variants of an enum, that a type asks its format for; none if
/// it is neither.
pub fn fields_of<T: for<'de> Deserialize<'de>>() -> Fields {
    let found = Cell::new(&[][..]);
    // Always an error: nothing is there to be read.
    let _ = T::deserialize(Asked(&found));
    found.get()
}

/// A format without content that keeps what it is asked for.
struct Asked<'c>(&'c Cell<Fields>);

impl<'de> Deserializer<'de> for Asked<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("no content"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: Fields,
        _: V,
    ) -> Result<V::Value, Error> {
        self.0.set(fields);
        Err(Error::custom("no content"))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: Fields,
        _: V,
    ) -> Result<V::Value, Error> {
        self.0.set(variants);
        Err(Error::custom("no content"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        option unit unit_struct newtype_struct seq tuple tuple_struct map identifier
        ignored_any
    }
}
