//! The VIP port, two below the one for clients.

use super::*;

async fn start(vip: bool) -> (Fixture, SocketAddr) {
    let clients = free_address();
    let fixture = Fixture::start_configured(|config| {
        (config.listen, config.advertise, config.vip) = (clients, clients, vip);
    })
    .await;
    (fixture, vip_address(clients).unwrap())
}

/// As an old client does it: sends and offsets over the VIP port, pulls over the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_serves_as_the_other_port_does() {
    let (fixture, vip) = start(true).await;
    let mut old = Client::connect(vip).await;
    let mut other = fixture.client().await;
    let sent = old.ok(send("T", "over the VIP port")).await;
    assert_eq!(SendResponse::decode(&sent).unwrap().queue_offset, 0);
    let pulled = other.ok(pull("T", 0, 5_000, "*")).await;
    assert!(pulled.body.windows(17).any(|bytes| bytes == b"over the VIP port"));
    assert_eq!(old.queue_number(request::GET_MAX_OFFSET, "T", "offset").await, 1);
    fixture.stop().await;
    assert!(TcpStream::connect(vip).await.is_err(), "a stopped broker listens on its VIP port");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_closed_unless_asked_for() {
    let (fixture, vip) = start(false).await;
    assert!(TcpStream::connect(vip).await.is_err());
    fixture.stop().await;
}

#[test]
fn it_is_two_below() {
    assert_eq!(vip_address("127.0.0.1:10911".parse().unwrap()).unwrap().port(), 10909);
    for without in ["127.0.0.1:2", "127.0.0.1:1"] {
        let error = vip_address(without.parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains(without), "{error}");
    }
}
