//! Requests as the official C++ client, and Python, PHP and Node.js over it, write them: booleans as 0 and 1,
//! enumerations as numbers, numbers as text.

use raftmq_remoting::body::{ConsumeType, ConsumerConnection, MessageModel};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cpp_client_sends_and_is_a_member() {
    let f = Fixture::start().await;
    let mut client = f.client().await;
    let mut ext = SendHeader::decode(&send("T", "hello")).unwrap().to_ext_v1();
    ext.set("unitMode", "0").set("batch", "0");
    client.ok(Command::request(request::SEND_MESSAGE, ext).with_body("hello")).await;

    for (index, (consumer, subscription)) in [
        (r#""consumeFromWhere":0,"consumeType":"CONSUME_PASSIVELY","messageModel":"CLUSTERING""#, "1796006915697"),
        (r#""consumeFromWhere":"CONSUME_FROM_LAST_OFFSET","consumeType":1,"messageModel":"CLUSTERING""#, "1796006915697"),
        (r#""consumeFromWhere":"CONSUME_FROM_LAST_OFFSET","consumeType":"CONSUME_PASSIVELY","messageModel":1"#, "1796006915697"),
        (r#""consumeFromWhere":0,"consumeType":1,"messageModel":1"#, r#""1796006915697""#),
    ]
    .into_iter()
    .enumerate()
    {
        let group = format!("G{index}");
        let body = format!(
            r#"{{"clientID":"1-127.0.0.1@DEFAULT","consumerDataSet":[{{{consumer},"groupName":"{group}","unitMode":0,
            "subscriptionDataSet":[{{"topic":"T","subString":"*","subVersion":{subscription},"tagsSet":[],"codeSet":[],
            "classFilterMode":0}}]}}]}}"#
        );
        let beat = Command::request(request::HEART_BEAT, Ext::new()).with_body(body);
        assert_eq!(client.code(beat).await, response::SUCCESS, "{consumer}");
        let ask = [("consumerGroup", group.as_str())].into_iter().collect();
        client.write([Command::request(request::GET_CONSUMER_CONNECTION_LIST, ask)]).await;
        let answer: ConsumerConnection = fastjson::parse(&client.answer().await.body).unwrap();
        assert_eq!(answer.consume_type, ConsumeType::Passively, "{consumer}");
        assert_eq!(answer.message_model, MessageModel::Clustering, "{consumer}");
        assert_eq!(answer.subscription_table["T"].sub_version, 1_796_006_915_697, "{consumer}");
    }
}
