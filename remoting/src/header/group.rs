//! Clients and their groups.

use super::header;

header! {
    /// The answer to a heartbeat (34), as 5.x clients look at it.
    #[derive(Copy)]
    HeartbeatResponse {
        supports_v2: bool = "IS_SUPPORT_HEART_BEAT_V2" or false,
        subscription_changed: bool = "IS_SUB_CHANGE" or false,
    }
}

header! {
    /// 35, a client leaves a producer or a consumer group.
    UnregisterClientHeader {
        client_id: String = "clientID",
        producer_group: Option<String> = "producerGroup",
        consumer_group: Option<String> = "consumerGroup",
    }
}

header! {
    /// 36, a consumer returns a message it could not handle.
    SendBackHeader {
        /// Physical offset of the message.
        offset: i64 = "offset",
        group: String = "group",
        /// 0 leaves it to the broker, below 0 sends it to the dead letters.
        delay_level: i32 = "delayLevel",
        origin_msg_id: Option<String> = "originMsgId",
        origin_topic: Option<String> = "originTopic",
        unit_mode: bool = "unitMode" or false,
        max_reconsume_times: Option<i32> = "maxReconsumeTimes",
    }
}

header! {
    /// 38, 40 and 203: a consumer group.
    ConsumerGroupHeader {
        consumer_group: String = "consumerGroup",
    }
}

header! {
    /// 204, the connections of a producer group.
    ProducerGroupHeader {
        producer_group: String = "producerGroup",
    }
}

header! {
    /// 207, delete a consumer group.
    DeleteGroupHeader {
        group_name: String = "groupName",
        /// From 5.x clients: delete its offsets too.
        clean_offset: bool = "cleanOffset" or false,
        /// The same from 4.9 clients.
        remove_offset: bool = "removeOffset" or false,
    }
}

header! {
    /// 208, a consumer group's progress.
    ConsumeStatsHeader {
        consumer_group: String = "consumerGroup",
        topic: Option<String> = "topic",
        /// From 5.x clients: topics joined by `;`.
        topic_list: Option<String> = "topicList",
    }
}

header! {
    /// 352, the settings of a group.
    GroupConfigHeader {
        group: String = "group",
    }
}
