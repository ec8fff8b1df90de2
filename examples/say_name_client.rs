//! A complete gRPC client: connects to say_name_server, calls it once, prints the answer.
//!
//! ```sh
//! cargo run --release --example say_name_client [HOST:PORT [NAME [AGE]]]
//! ```

use std::sync::Arc;
use std::time::Duration;
use std::{env, process};

use grpcio::{
    CallOption, ChannelBuilder, Client, Environment, Marshaller, Method, MethodType, pb_de, pb_ser,
};

// build.rs generates `Teacher` from proto/say_name.proto.
include!(concat!(env!("OUT_DIR"), "/say_name/mod.rs"));
use say_name::Teacher;

/// `rpc SayHello(Teacher) returns (Teacher)` of service `SayName` in package `pb`.
const SAY_HELLO: Method<Teacher, Teacher> = Method {
    ty: MethodType::Unary,
    name: "/pb.SayName/SayHello",
    req_mar: TEACHER,
    resp_mar: TEACHER,
};

/// How a teacher is encoded and decoded: as protobuf.
const TEACHER: Marshaller<Teacher> = Marshaller {
    ser: pb_ser,
    de: pb_de,
};

/// Connects to the server at `address` and waits for its answer, at most five seconds.
fn say_hello(address: &str, teacher: &Teacher) -> grpcio::Result<Teacher> {
    let env = Arc::new(Environment::new(1));
    let channel = ChannelBuilder::new(env).connect(address);
    let patience = CallOption::default().timeout(Duration::from_secs(5));
    Client::new(channel).unary_call(&SAY_HELLO, teacher, patience)
}

/// What the other side, or the gRPC core, says.
fn words(error: &grpcio::Error) -> String {
    match error {
        grpcio::Error::RpcFailure(status) => format!("{} {}", status.code(), status.message()),
        error => error.to_string(),
    }
}

fn run() -> Result<(), String> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if arguments.len() > 3 {
        return Err(
            "too many arguments; write say_name_client [HOST:PORT [NAME [AGE]]]".to_owned(),
        );
    }
    let argument = |at: usize, default: &'static str| arguments.get(at).map_or(default, |it| it);
    let (address, age) = (argument(0, "127.0.0.1:8800"), argument(2, "18"));
    let no_age = |error| format!("{age:?} is no age: {error}; write a whole number of years");
    let teacher = Teacher {
        name: argument(1, "Ada").to_owned(),
        age: age.parse().map_err(no_age)?,
        ..Teacher::default()
    };
    let answer = say_hello(address, &teacher).map_err(|error| {
        format!(
            "{address} does not answer: {}; start say_name_server there, or give the HOST:PORT where it is",
            words(&error)
        )
    })?;
    println!("age: {}, name: {}", answer.age, answer.name);
    Ok(())
}

fn main() {
    if let Err(error) = run() {
        eprintln!("say_name_client: {error}");
        process::exit(1);
    }
}
