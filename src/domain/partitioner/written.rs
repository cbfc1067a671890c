//! A partitioner as a request or the database has it in JSON.

use serde::Deserialize;

use super::{
    CelKind, CelPartitioner, ConstantKind, ConstantPartitioner, HashPartitioner, HashedName, KeyKind, KeyOf,
    KeyPartitioner, PartitionMethod, Partitioner, ValueIn, ValuePartitioner,
};
use crate::domain::named::{named, named_if_any};
use crate::domain::object::Object;

/// The fields of all kinds, so that an error names the field that is missing, unknown or wrong for its kind.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenPartitioner {
    #[serde(deserialize_with = "named")]
    kind: Kind,
    partitions: Option<i64>,
    pointer: Option<String>,
    #[serde(default, deserialize_with = "named_if_any")]
    method: Option<PartitionMethod>,
    missing: Option<i64>,
    expression: Option<String>,
    #[serde(default, deserialize_with = "named_if_any")]
    of: Option<KeyOf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Constant,
    Stream,
    CardinalId,
    Category,
    Type,
    Data,
    Metadata,
    Cel,
    Key,
}

impl TryFrom<Object<WrittenPartitioner>> for Partitioner {
    /// What serde says of a field that is missing or unknown, so that its name is found there.
    type Error = serde::de::value::Error;

    fn try_from(Object(mut written): Object<WrittenPartitioner>) -> Result<Self, Self::Error> {
        let read = match written.kind {
            Kind::Constant => Partitioner::Constant(ConstantPartitioner { kind: ConstantKind::Constant }),
            Kind::Stream => written.hash(HashedName::Stream)?,
            Kind::CardinalId => written.hash(HashedName::CardinalId)?,
            Kind::Category => written.hash(HashedName::Category)?,
            Kind::Type => written.hash(HashedName::Type)?,
            Kind::Data => written.value(ValueIn::Data)?,
            Kind::Metadata => written.value(ValueIn::Metadata)?,
            Kind::Cel => Partitioner::Cel(CelPartitioner {
                kind: CelKind::Cel,
                expression: given("expression", written.expression.take())?,
            }),
            Kind::Key => written.key()?,
        };
        let WrittenPartitioner { kind: _, partitions, pointer, method, missing, expression, of } = written;
        let left = [
            ("partitions", partitions.is_some()),
            ("pointer", pointer.is_some()),
            ("method", method.is_some()),
            ("missing", missing.is_some()),
            ("expression", expression.is_some()),
            ("of", of.is_some()),
        ];
        match left.into_iter().find(|(_, is_left)| *is_left) {
            Some((field, _)) => Err(serde::de::Error::unknown_field(field, &[])),
            None => Ok(read),
        }
    }
}

impl WrittenPartitioner {
    fn partitions(&mut self) -> Result<i64, serde::de::value::Error> {
        given("partitions", self.partitions.take())
    }

    fn hash(&mut self, kind: HashedName) -> Result<Partitioner, serde::de::value::Error> {
        Ok(Partitioner::Hash(HashPartitioner { kind, partitions: self.partitions()? }))
    }

    fn value(&mut self, kind: ValueIn) -> Result<Partitioner, serde::de::value::Error> {
        Ok(Partitioner::Value(ValuePartitioner {
            kind,
            pointer: given("pointer", self.pointer.take())?,
            method: given("method", self.method.take())?,
            partitions: self.partitions()?,
            missing: self.missing.take(),
        }))
    }

    fn key(&mut self) -> Result<Partitioner, serde::de::value::Error> {
        let of = given("of", self.of.take())?;
        let pointer = match of {
            KeyOf::Data | KeyOf::Metadata => Some(given("pointer", self.pointer.take())?),
            // One that was given all the same is refused as unknown.
            KeyOf::CardinalId | KeyOf::Type => None,
        };
        Ok(Partitioner::Key(KeyPartitioner { kind: KeyKind::Key, of, pointer }))
    }
}

fn given<T>(field: &'static str, value: Option<T>) -> Result<T, serde::de::value::Error> {
    value.ok_or_else(|| serde::de::Error::missing_field(field))
}
