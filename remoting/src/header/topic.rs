//! Topics and routes.

use super::header;

header! {
    /// 17, create a topic or change its settings.
    CreateTopicHeader {
        topic: String = "topic",
        default_topic: Option<String> = "defaultTopic",
        read_queue_nums: i32 = "readQueueNums",
        write_queue_nums: i32 = "writeQueueNums",
        /// Read 4, write 2, inherit 1.
        perm: i32 = "perm",
        /// SINGLE_TAG or MULTI_TAG.
        topic_filter_type: String = "topicFilterType" or "SINGLE_TAG".to_owned(),
        topic_sys_flag: Option<i32> = "topicSysFlag",
        order: bool = "order" or false,
        /// `+key=value,-key`, from 5.x clients.
        attributes: Option<String> = "attributes",
    }
}

header! {
    /// 202, 215, 300 and 351: a topic.
    TopicHeader {
        topic: String = "topic",
    }
}

header! {
    /// 105, the route of a topic.
    RouteHeader {
        topic: String = "topic",
        accept_standard_json_only: bool = "acceptStandardJsonOnly" or false,
    }
}

header! {
    /// 216, delete a topic at the name server.
    DeleteTopicRouteHeader {
        topic: String = "topic",
        cluster_name: Option<String> = "clusterName",
    }
}

header! {
    /// 224, topics of a cluster.
    ClusterHeader {
        cluster: String = "cluster",
    }
}
