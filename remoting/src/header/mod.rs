//! The named fields of requests and responses as types.
//!
//! | module | codes |
//! |---|---|
//! | [`send`](SendHeader) | 10, 310, 320, 324, 325 |
//! | [`pull`](PullHeader) | 11, 361 |
//! | `offset` | 12, 14, 15, 29, 30, 31, 32, 33, 222 |
//! | `group` | 34, 35, 36, 38, 40, 203, 204, 207, 208, 221, 223, 303, 307, 309, 314, 317, 343, 345, 352 |
//! | `topic` | 17, 105, 202, 215, 216, 224, 300, 351 |
//! | `broker` | 103, 104 |
//!
//! Every type has `decode`, which reads it from a command and names what is missing or wrong, and `to_ext`, its
//! inverse; only [`SendResponse`] is written by [`crate::encode::write_send_response`] alone. Fields nobody here asks
//! for are ignored.

mod broker;
mod group;
mod offset;
mod pull;
mod send;
mod topic;

pub use broker::*;
pub use group::*;
pub use offset::*;
pub use pull::*;
pub use send::*;
pub use topic::*;

use std::borrow::Cow;

use crate::ext::{Ext, FieldError};
use crate::json::Decimal;

/// A header that lacks a field or has a wrong one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("header of code {code}: {source}")]
pub struct HeaderError {
    /// Code of the command.
    pub code: i32,
    pub source: FieldError,
}

/// A type an ext field can have.
trait FieldValue: Sized {
    /// The field's value, `None` where the field is absent.
    fn read(ext: &Ext, field: &'static str) -> Result<Option<Self>, FieldError>;
    /// What an absent field means.
    fn absent(field: &'static str) -> Result<Self, FieldError> {
        Err(FieldError::Missing { field })
    }
    fn write(&self, ext: &mut Ext, field: &'static str);
}

impl FieldValue for i32 {
    fn read(ext: &Ext, field: &'static str) -> Result<Option<Self>, FieldError> {
        ext.get_i32(field)
    }
    fn write(&self, ext: &mut Ext, field: &'static str) {
        ext.set(field, Decimal::new(i64::from(*self)).as_str());
    }
}

impl FieldValue for i64 {
    fn read(ext: &Ext, field: &'static str) -> Result<Option<Self>, FieldError> {
        ext.get_i64(field)
    }
    fn write(&self, ext: &mut Ext, field: &'static str) {
        ext.set(field, Decimal::new(*self).as_str());
    }
}

impl FieldValue for bool {
    fn read(ext: &Ext, field: &'static str) -> Result<Option<Self>, FieldError> {
        Ok(ext.get_bool(field))
    }
    fn write(&self, ext: &mut Ext, field: &'static str) {
        ext.set(field, if *self { "true" } else { "false" });
    }
}

impl FieldValue for String {
    fn read(ext: &Ext, field: &'static str) -> Result<Option<Self>, FieldError> {
        Ok(ext.get(field).map(Cow::into_owned))
    }
    fn write(&self, ext: &mut Ext, field: &'static str) {
        ext.set(field, self);
    }
}

impl<T: FieldValue> FieldValue for Option<T> {
    fn read(ext: &Ext, field: &'static str) -> Result<Option<Self>, FieldError> {
        T::read(ext, field).map(Some)
    }
    fn absent(_: &'static str) -> Result<Self, FieldError> {
        Ok(None)
    }
    fn write(&self, ext: &mut Ext, field: &'static str) {
        if let Some(value) = self {
            value.write(ext, field);
        }
    }
}

/// Defines a header type: `name: type = "field"`, mandatory unless the type is an `Option` or `or default` follows.
macro_rules! header {
    (
        $(#[$doc:meta])*
        $name:ident { $( $(#[$field_doc:meta])* $field:ident: $ty:ty = $key:literal $(or $default:expr)?, )* }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name { $( $(#[$field_doc])* pub $field: $ty, )* }

        impl $name {
            /// Reads the fields of a command.
            pub fn decode(
                command: &crate::command::Command,
            ) -> Result<Self, crate::header::HeaderError> {
                Self::read(&command.ext)
                    .map_err(|source| crate::header::HeaderError { code: command.code, source })
            }

            fn read(ext: &crate::ext::Ext) -> Result<Self, crate::ext::FieldError> {
                #[allow(unused_imports)]
                use crate::header::FieldValue;
                Ok(Self {
                    $( $field: match <$ty as FieldValue>::read(ext, $key)? {
                        Some(value) => value,
                        None => crate::header::header!(@absent $ty, $key $(, $default)?),
                    }, )*
                })
            }

            /// The fields as they go into a header.
            pub fn to_ext(&self) -> crate::ext::Ext {
                let mut ext = crate::ext::Ext::new();
                $( crate::header::FieldValue::write(&self.$field, &mut ext, $key); )*
                ext
            }
        }
    };
    (@absent $ty:ty, $key:literal) => { <$ty as FieldValue>::absent($key)? };
    (@absent $ty:ty, $key:literal, $default:expr) => { $default };
}
use header;

#[cfg(test)]
mod tests;
