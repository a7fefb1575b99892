//! The recorded outcomes.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// What one version's decoders did.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    /// Values of a header's fields.
    pub(crate) texts: Vec<String>,
    /// Values of members, as they stand in the JSON.
    pub(crate) members: Vec<String>,
    pub(crate) header: Value,
    pub(crate) shapes: Vec<(String, String)>,
    pub(crate) binary: Vec<(String, String)>,
    pub(crate) bad_utf8: Vec<(String, String)>,
    pub(crate) headers: BTreeMap<String, Value>,
    pub(crate) bodies: BTreeMap<String, Value>,
    /// Outcomes of a field, to which fields refer by index.
    pub(crate) rows: Vec<Vec<Value>>,
}

/// A field as one version has it.
pub(crate) struct Version<'a> {
    pub(crate) field: &'a Value,
    /// Usual values of the header's fields.
    pub(crate) base: &'a Value,
    /// A usual body with a control character where the field's value belongs.
    pub(crate) text: &'a Value,
    /// By input.
    pub(crate) row: &'a [Value],
}

impl Record {
    /// 4.9.7 and 5.4.0.
    pub(crate) fn both() -> [Self; 2] {
        [include_str!("java-4.9.7.json"), include_str!("java-5.4.0.json")]
            .map(|text| serde_json::from_str(text).unwrap())
    }

    /// The fields of a class, each with the versions that have it.
    pub(crate) fn fields<'a>(
        records: &'a [Self; 2],
        of: impl Fn(&'a Self) -> &'a BTreeMap<String, Value>,
        class: &str,
    ) -> BTreeMap<String, Vec<Version<'a>>> {
        let mut all = BTreeMap::<_, Vec<_>>::new();
        for record in records {
            let Some(class) = of(record).get(class) else { continue };
            for (name, field) in class["fields"].as_object().unwrap() {
                let row = &record.rows[field["outcomes"].as_u64().unwrap() as usize];
                let version = Version { field, base: &class["base"], text: &class["texts"][name], row };
                all.entry(name.clone()).or_default().push(version);
            }
        }
        assert!(!all.is_empty(), "no record of {class}");
        all
    }
}
