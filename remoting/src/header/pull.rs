//! Pulling: the request and its answer.

use std::borrow::Cow;

use super::{FieldValue, HeaderError, header};
use crate::command::Command;
use crate::ext::{Ext, FieldError};

/// Bits of a pull's sysFlag.
pub mod pull_flag {
    /// `commit_offset` holds an offset to store.
    pub const COMMIT_OFFSET: i32 = 1;
    /// The broker may hold the request until a message arrives.
    pub const SUSPEND: i32 = 2;
    /// `subscription` holds the expression to filter by.
    pub const SUBSCRIPTION: i32 = 4;
    pub const CLASS_FILTER: i32 = 8;
    pub const LITE_PULL: i32 = 16;
}

/// Fields of a pull request.
#[derive(Debug, Clone, PartialEq)]
pub struct PullHeader<'a> {
    pub consumer_group: Cow<'a, str>,
    pub topic: Cow<'a, str>,
    pub queue_id: i32,
    /// First offset wanted.
    pub queue_offset: i64,
    pub max_msg_nums: i32,
    /// Bits of [`pull_flag`].
    pub sys_flag: i32,
    pub commit_offset: i64,
    /// How long the request may be held, in milliseconds.
    pub suspend_timeout_ms: i64,
    pub subscription: Option<Cow<'a, str>>,
    pub sub_version: i64,
    /// TAG or SQL92; absent means TAG.
    pub expression_type: Option<Cow<'a, str>>,
    pub max_msg_bytes: Option<i32>,
}

impl<'a> PullHeader<'a> {
    /// Reads the fields of a pull request.
    pub fn decode(command: &'a Command) -> Result<Self, HeaderError> {
        Self::read(&command.ext).map_err(|source| HeaderError { code: command.code, source })
    }

    fn read(ext: &'a Ext) -> Result<Self, FieldError> {
        let missing = |field| FieldError::Missing { field };
        let number = |field| ext.get_i32(field)?.ok_or(missing(field));
        let long = |field| ext.get_i64(field)?.ok_or(missing(field));
        Ok(Self {
            consumer_group: ext.get("consumerGroup").ok_or(missing("consumerGroup"))?,
            topic: ext.get("topic").ok_or(missing("topic"))?,
            queue_id: number("queueId")?,
            queue_offset: long("queueOffset")?,
            max_msg_nums: number("maxMsgNums")?,
            sys_flag: number("sysFlag")?,
            commit_offset: long("commitOffset")?,
            suspend_timeout_ms: long("suspendTimeoutMillis")?,
            subscription: ext.get("subscription"),
            sub_version: long("subVersion")?,
            expression_type: ext.get("expressionType"),
            max_msg_bytes: ext.get_i32("maxMsgBytes")?,
        })
    }

    /// The fields as they go into a header.
    pub fn to_ext(&self) -> Ext {
        let mut ext = Ext::new();
        ext.set("consumerGroup", &self.consumer_group).set("topic", &self.topic);
        self.queue_id.write(&mut ext, "queueId");
        self.queue_offset.write(&mut ext, "queueOffset");
        self.max_msg_nums.write(&mut ext, "maxMsgNums");
        self.sys_flag.write(&mut ext, "sysFlag");
        self.commit_offset.write(&mut ext, "commitOffset");
        self.suspend_timeout_ms.write(&mut ext, "suspendTimeoutMillis");
        if let Some(subscription) = &self.subscription {
            ext.set("subscription", subscription);
        }
        self.sub_version.write(&mut ext, "subVersion");
        if let Some(expression_type) = &self.expression_type {
            ext.set("expressionType", expression_type);
        }
        self.max_msg_bytes.write(&mut ext, "maxMsgBytes");
        ext
    }
}

header! {
    /// Fields of the answer to a pull; complete with every code that is an answer to the pull itself.
    #[derive(Copy, Default)]
    PullResponse {
        /// Broker id to pull from next.
        suggest_which_broker_id: i64 = "suggestWhichBrokerId",
        next_begin_offset: i64 = "nextBeginOffset",
        min_offset: i64 = "minOffset",
        max_offset: i64 = "maxOffset",
        offset_delta: Option<i64> = "offsetDelta",
        topic_sys_flag: Option<i32> = "topicSysFlag",
        group_sys_flag: Option<i32> = "groupSysFlag",
        forbidden_type: Option<i32> = "forbiddenType",
    }
}
