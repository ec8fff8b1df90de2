//! A bare grpcio server: `Get` that neither reads its request nor makes its reply.

use std::sync::{Arc, OnceLock};
use std::thread;

use corecache::engine::pin_to_core;
use corecache::server::pb::cache::Value;
use grpcio::{
    ChannelBuilder, EnvBuilder, Environment, GrpcSlice, Marshaller, Method, MethodType,
    ServerBuilder, ServerCredentials, ServiceBuilder,
};
use protobuf::Message;

use super::{SERVER_CORE, argument};

/// How large the value is that is in each reply.
pub const VALUE_BYTES: &str = "--value-bytes";

pub fn value_bytes() -> usize {
    argument(VALUE_BYTES, 100)
}

/// The value that is in each reply.
pub fn value() -> Vec<u8> {
    vec![b'x'; value_bytes()]
}

/// The reply, encoded.
pub fn reply() -> Vec<u8> {
    let value = Value {
        value: value(),
        ..Value::default()
    };
    value.write_to_bytes().expect("a message")
}

/// What the server answers, made once.
static REPLY: OnceLock<GrpcSlice> = OnceLock::new();

const GET: Method<(), ()> = Method {
    ty: MethodType::Unary,
    name: "/corecache.v1.Cache/Get",
    req_mar: Marshaller {
        ser: |_, _| Ok(()),
        de: |_| Ok(()),
    },
    resp_mar: Marshaller {
        ser: |_, slice| {
            *slice = REPLY.get_or_init(|| reply().into()).clone();
            Ok(())
        },
        de: |_| Ok(()),
    },
};

/// Serves with one completion queue, bound to the servers' core, and with these channel arguments, until the process is
/// killed.
pub fn serve(arguments: impl FnOnce(&Arc<Environment>) -> ChannelBuilder) -> ! {
    let bind = || {
        if let Err(error) = pin_to_core(SERVER_CORE) {
            eprintln!("the echo is not bound to core {SERVER_CORE}: {error}");
        }
    };
    let env = Arc::new(EnvBuilder::new().cq_count(1).after_start(bind).build());
    let arguments = arguments(&env).build_args();
    let service = ServiceBuilder::new()
        .add_unary_handler(&GET, |ctx, (), sink| {
            let sent = sink.success(());
            ctx.spawn(async move {
                let _ = sent.await;
            });
        })
        .build();
    let mut server = ServerBuilder::new(env)
        .channel_args(arguments)
        .register_service(service)
        .build()
        .expect("a server");
    let port = server.add_listening_port("127.0.0.1:0", ServerCredentials::insecure());
    server.start();
    println!("listening on 127.0.0.1:{}", port.expect("a free port"));
    loop {
        thread::park();
    }
}
