//! Offsets of queues and consumers, and looking up single messages.

use super::header;

header! {
    /// 14, a consumer group's offset in a queue.
    QueryConsumerOffsetHeader {
        consumer_group: String = "consumerGroup",
        topic: String = "topic",
        queue_id: i32 = "queueId",
        /// False asks for a plain "not found" where there is no offset.
        set_zero_if_not_found: Option<bool> = "setZeroIfNotFound",
    }
}

header! {
    /// 15, store a consumer group's offset in a queue.
    UpdateConsumerOffsetHeader {
        consumer_group: String = "consumerGroup",
        topic: String = "topic",
        queue_id: i32 = "queueId",
        commit_offset: i64 = "commitOffset",
    }
}

header! {
    /// 222, set where a group goes on in a topic.
    ResetOffsetHeader {
        topic: String = "topic",
        group: String = "group",
        /// Milliseconds since 1970; below 0 means the end.
        timestamp: i64 = "timestamp",
        /// Whether it may go forwards too.
        is_force: bool = "isForce" or false,
        /// From 5.x clients: one queue; below 0 means all.
        queue_id: i32 = "queueId" or -1,
        /// From 5.x clients, with a queue: the offset itself; -1 leaves it to the timestamp.
        offset: i64 = "offset" or -1,
    }
}

header! {
    /// 30, 31 and 32, the largest or smallest offset of a queue or the store time of its first message.
    QueueHeader {
        topic: String = "topic",
        queue_id: i32 = "queueId",
        /// 30 only: whether to count committed messages alone.
        committed: Option<bool> = "committed",
    }
}

header! {
    /// 29, the offset that belongs to a time.
    SearchOffsetHeader {
        topic: String = "topic",
        queue_id: i32 = "queueId",
        /// Milliseconds since 1970.
        timestamp: i64 = "timestamp",
        /// LOWER or UPPER in any case; absent means LOWER.
        boundary_type: Option<String> = "boundaryType",
    }
}

header! {
    /// The answer to 14, 29, 30 and 31.
    #[derive(Copy)]
    OffsetResponse {
        offset: i64 = "offset",
    }
}

header! {
    /// The answer to 32.
    #[derive(Copy)]
    EarliestStoreTimeResponse {
        /// Milliseconds since 1970, -1 for an empty queue.
        timestamp: i64 = "timestamp",
    }
}

header! {
    /// 33, one message by its physical offset.
    ViewMessageHeader {
        offset: i64 = "offset",
        topic: Option<String> = "topic",
    }
}

header! {
    /// 12, messages by key.
    QueryMessageHeader {
        topic: String = "topic",
        key: String = "key",
        max_num: i32 = "maxNum",
        /// Milliseconds since 1970.
        begin_timestamp: i64 = "beginTimestamp",
        /// Milliseconds since 1970.
        end_timestamp: i64 = "endTimestamp",
        /// The key is a unique key.
        unique_key: bool = "_UNIQUE_KEY_QUERY" or false,
    }
}

header! {
    /// The answer to 12.
    #[derive(Copy)]
    QueryMessageResponse {
        /// Milliseconds since 1970.
        index_last_update_timestamp: i64 = "indexLastUpdateTimestamp",
        index_last_update_phyoffset: i64 = "indexLastUpdatePhyoffset",
    }
}
