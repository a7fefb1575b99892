//! Sending: the request with long or short field names, and its answer.

use std::borrow::Cow;

use super::HeaderError;
use crate::codes::request;
use crate::command::Command;
use crate::ext::{Ext, FieldError, RawValue, parse_bool};
use crate::header::FieldValue;

/// Fields of a send request, whichever of the codes it came with.
#[derive(Debug, Clone, PartialEq)]
pub struct SendHeader<'a> {
    pub producer_group: Cow<'a, str>,
    pub topic: Cow<'a, str>,
    /// The topic an automatically created one copies.
    pub default_topic: Cow<'a, str>,
    /// Queues the producer would like such a topic to have.
    pub default_topic_queue_nums: i32,
    /// -1 leaves the choice to the broker.
    pub queue_id: i32,
    pub sys_flag: i32,
    /// Producer's clock, milliseconds since 1970.
    pub born_timestamp_ms: i64,
    /// The user's own flag.
    pub flag: i32,
    /// Raw properties, see `raftmq_message::properties`.
    pub properties: Cow<'a, str>,
    pub reconsume_times: i32,
    pub unit_mode: bool,
    pub max_reconsume_times: Option<i32>,
    /// The body is a batch.
    pub batch: bool,
    /// The broker the client believes it talks to.
    pub broker_name: Option<Cow<'a, str>>,
}

/// Positions of the fields in [`LONG_NAMES`]; the short names are the letters `a` to `n` in this order.
#[derive(Clone, Copy)]
enum Field {
    ProducerGroup,
    Topic,
    DefaultTopic,
    DefaultTopicQueueNums,
    QueueId,
    SysFlag,
    BornTimestamp,
    Flag,
    Properties,
    ReconsumeTimes,
    UnitMode,
    MaxReconsumeTimes,
    Batch,
    BrokerName,
}

const FIELDS: usize = 14;
const LONG_NAMES: [&str; FIELDS] = [
    "producerGroup",
    "topic",
    "defaultTopic",
    "defaultTopicQueueNums",
    "queueId",
    "sysFlag",
    "bornTimestamp",
    "flag",
    "properties",
    "reconsumeTimes",
    "unitMode",
    "maxReconsumeTimes",
    "batch",
    "bname",
];

impl<'a> SendHeader<'a> {
    /// Reads the fields of a send request: long names for 10 and 324, letters for all other codes.
    pub fn decode(command: &'a Command) -> Result<Self, HeaderError> {
        let long_names = matches!(command.code, request::SEND_MESSAGE | request::SEND_REPLY_MESSAGE);
        let values = if long_names { by_long_name(&command.ext) } else { by_letter(&command.ext) };
        Found { ext: &command.ext, values }
            .read()
            .map_err(|source| HeaderError { code: command.code, source })
    }

    /// The fields under the letters that 310, 320 and 325 use.
    pub fn to_ext(&self) -> Ext {
        const LETTERS: [&str; FIELDS] =
            ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n"];
        self.to_ext_named(&LETTERS)
    }

    /// The fields under the long names that 10 and 324 use.
    pub fn to_ext_v1(&self) -> Ext {
        self.to_ext_named(&LONG_NAMES)
    }

    fn to_ext_named(&self, names: &[&'static str; FIELDS]) -> Ext {
        let mut ext = Ext::new();
        let texts =
            [(0, &self.producer_group), (1, &self.topic), (2, &self.default_topic), (8, &self.properties)];
        for (at, text) in texts {
            ext.set(names[at], text);
        }
        let numbers = [
            (3, self.default_topic_queue_nums),
            (4, self.queue_id),
            (5, self.sys_flag),
            (7, self.flag),
            (9, self.reconsume_times),
        ];
        for (at, number) in numbers {
            number.write(&mut ext, names[at]);
        }
        self.born_timestamp_ms.write(&mut ext, names[6]);
        self.unit_mode.write(&mut ext, names[10]);
        self.max_reconsume_times.write(&mut ext, names[11]);
        self.batch.write(&mut ext, names[12]);
        if let Some(name) = &self.broker_name {
            ext.set(names[13], name);
        }
        ext
    }
}

type Values = [Option<RawValue>; FIELDS];

fn by_letter(ext: &Ext) -> Values {
    let mut values = [None; FIELDS];
    for (key, value) in ext.raw() {
        if let [letter @ b'a'..=b'n'] = key {
            values[usize::from(letter - b'a')] = Some(value);
        }
    }
    values
}

fn by_long_name(ext: &Ext) -> Values {
    let mut values = [None; FIELDS];
    for (key, value) in ext.raw() {
        if let Some(at) = LONG_NAMES.iter().position(|name| name.as_bytes() == key) {
            values[at] = Some(value);
        }
    }
    values
}

/// The values of a send request, each in its field's place.
struct Found<'a> {
    ext: &'a Ext,
    values: Values,
}

impl<'a> Found<'a> {
    fn read(&self) -> Result<SendHeader<'a>, FieldError> {
        Ok(SendHeader {
            producer_group: self.text(Field::ProducerGroup)?,
            topic: self.text(Field::Topic)?,
            default_topic: self.text(Field::DefaultTopic)?,
            default_topic_queue_nums: self.i32(Field::DefaultTopicQueueNums)?,
            queue_id: self.i32(Field::QueueId)?,
            sys_flag: self.i32(Field::SysFlag)?,
            born_timestamp_ms: self
                .present(Field::BornTimestamp)
                .and_then(|v| self.i64(Field::BornTimestamp, v))?,
            flag: self.i32(Field::Flag)?,
            properties: self.optional_text(Field::Properties).unwrap_or_default(),
            reconsume_times: self.optional_i32(Field::ReconsumeTimes)?.unwrap_or(0),
            unit_mode: self.bool(Field::UnitMode),
            max_reconsume_times: self.optional_i32(Field::MaxReconsumeTimes)?,
            batch: self.bool(Field::Batch),
            broker_name: self.optional_text(Field::BrokerName),
        })
    }

    fn value(&self, field: Field) -> Option<RawValue> {
        self.values[field as usize]
    }

    fn present(&self, field: Field) -> Result<RawValue, FieldError> {
        self.value(field).ok_or(FieldError::Missing { field: LONG_NAMES[field as usize] })
    }

    fn optional_text(&self, field: Field) -> Option<Cow<'a, str>> {
        self.value(field).map(|value| self.ext.resolve(value))
    }

    fn text(&self, field: Field) -> Result<Cow<'a, str>, FieldError> {
        Ok(self.ext.resolve(self.present(field)?))
    }

    fn invalid(&self, field: Field, value: RawValue, expected: &'static str) -> FieldError {
        FieldError::invalid(LONG_NAMES[field as usize], &self.ext.resolve(value), expected)
    }

    fn i64(&self, field: Field, value: RawValue) -> Result<i64, FieldError> {
        self.ext.resolve_i64(value).ok_or_else(|| self.invalid(field, value, "a 64-bit number"))
    }

    fn i32(&self, field: Field) -> Result<i32, FieldError> {
        let value = self.present(field)?;
        let number = self.ext.resolve_i64(value).and_then(|n| i32::try_from(n).ok());
        number.ok_or_else(|| self.invalid(field, value, "a 32-bit number"))
    }

    fn optional_i32(&self, field: Field) -> Result<Option<i32>, FieldError> {
        self.value(field).map(|_| self.i32(field)).transpose()
    }

    /// False where absent.
    fn bool(&self, field: Field) -> bool {
        self.value(field).is_some_and(|value| parse_bool(&self.ext.resolve(value)))
    }
}

/// Fields of the answer to a send.
#[derive(Debug, Clone, PartialEq)]
pub struct SendResponse<'a> {
    /// Offset message id; for a batch the ids of all messages, joined by commas.
    pub msg_id: Cow<'a, str>,
    pub queue_id: i32,
    /// Queue offset of the message, or of a batch's first.
    pub queue_offset: i64,
    /// The message's unique key, from 5.x brokers.
    pub transaction_id: Option<Cow<'a, str>>,
    pub region: Option<Cow<'a, str>>,
    pub trace_on: bool,
}

impl<'a> SendResponse<'a> {
    /// Reads the fields of an answer.
    pub fn decode(command: &'a Command) -> Result<Self, HeaderError> {
        Self::read(&command.ext).map_err(|source| HeaderError { code: command.code, source })
    }

    fn read(ext: &'a Ext) -> Result<Self, FieldError> {
        let missing = |field| FieldError::Missing { field };
        Ok(Self {
            msg_id: ext.get("msgId").ok_or(missing("msgId"))?,
            queue_id: ext.get_i32("queueId")?.ok_or(missing("queueId"))?,
            queue_offset: ext.get_i64("queueOffset")?.ok_or(missing("queueOffset"))?,
            transaction_id: ext.get("transactionId"),
            region: ext.get("MSG_REGION"),
            trace_on: ext.get_bool("TRACE_ON").unwrap_or(false),
        })
    }
}
