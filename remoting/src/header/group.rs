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
    /// 343 and 352, a group.
    GroupConfigHeader {
        group: String = "group",
    }
}

header! {
    /// 303, a consumer group and a topic.
    GroupTopicHeader {
        group: String = "group",
        topic: String = "topic",
    }
}

header! {
    /// 345, what a consumer group wants of a topic.
    QuerySubscriptionHeader {
        group: String = "group",
        topic: Option<String> = "topic",
    }
}

header! {
    /// 221 and 223, how far the members of a consumer group are in a topic.
    ConsumerStatusHeader {
        topic: String = "topic",
        group: String = "group",
        /// Only the member with this client id.
        client_id: Option<String> = "clientAddr",
    }
}

header! {
    /// 307 and 309, a member of a consumer group, by its client id.
    ConsumerClientHeader {
        consumer_group: String = "consumerGroup",
        client_id: String = "clientId",
        /// 309 only: the offset message id of the message to be consumed.
        msg_id: Option<String> = "msgId",
    }
}

header! {
    /// 314, give a group the offsets of another.
    CloneOffsetsHeader {
        source: String = "srcGroup",
        destination: String = "destGroup",
        /// Only this topic's.
        topic: Option<String> = "topic",
        /// Also of topics that the source's members do not subscribe to at the moment.
        offline: bool = "offline" or false,
    }
}

header! {
    /// 317, the progress of all groups.
    #[derive(Copy)]
    BrokerConsumeStatsHeader {
        /// Only of ordered topics.
        is_order: bool = "isOrder" or false,
    }
}
