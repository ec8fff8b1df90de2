//! Server reflection, asked by a real client over a real socket.

use std::sync::Arc;
use std::time::Duration;

use corecache::server::pb;
use corecache::server::pb::reflection::server_reflection_request::Message_request as Question;
use corecache::server::pb::reflection::server_reflection_response::Message_response as Answer;
use corecache::server::pb::reflection::{
    ExtensionRequest, ServerReflectionRequest, ServerReflectionResponse,
};
use corecache::server::reflection::{self, INFO, INFO_V1ALPHA};
use futures_executor::block_on;
use futures_util::{SinkExt, StreamExt};
use grpcio::{
    CallOption, ChannelBuilder, Client, ClientDuplexReceiver, ClientDuplexSender, Environment,
    Error, Marshaller, Method, MethodType, RpcStatusCode, Server, ServerBuilder, ServerCredentials,
    WriteFlags,
};
use protobuf::Message;
use protobuf::descriptor::field_descriptor_proto::{Label, Type};
use protobuf::descriptor::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto};

const NOT_FOUND: i32 = 5;
const INVALID_ARGUMENT: i32 = 3;

/// A server with nothing but the reflection of `files`, and a client that is connected to it.
fn start(files: &[FileDescriptorProto]) -> (Server, Client) {
    let env = Arc::new(Environment::new(1));
    let mut server = ServerBuilder::new(env.clone())
        .register_service(reflection::service(files).unwrap())
        .build()
        .unwrap();
    let port = server
        .add_listening_port("127.0.0.1:0", ServerCredentials::insecure())
        .unwrap();
    server.start();
    let channel = ChannelBuilder::new(env).connect(&format!("127.0.0.1:{port}"));
    (server, Client::new(channel))
}

/// One conversation with the server.
struct Talk {
    questions: ClientDuplexSender<ServerReflectionRequest>,
    answers: ClientDuplexReceiver<ServerReflectionResponse>,
}

impl Talk {
    fn start(
        client: &Client,
        method: &Method<ServerReflectionRequest, ServerReflectionResponse>,
    ) -> Talk {
        let patience = CallOption::default().timeout(Duration::from_secs(30));
        let (questions, answers) = client.duplex_streaming(method, patience).unwrap();
        Talk { questions, answers }
    }

    fn send(&mut self, question: Option<Question>) -> ServerReflectionResponse {
        let request = ServerReflectionRequest {
            host: "node-7".to_owned(),
            message_request: question,
            ..ServerReflectionRequest::default()
        };
        block_on(
            self.questions
                .send((request.clone(), WriteFlags::default())),
        )
        .unwrap();
        let response = block_on(self.answers.next()).unwrap().unwrap();
        assert_eq!(response.valid_host, "node-7");
        assert_eq!(response.original_request.as_ref(), Some(&request));
        response
    }

    fn ask(&mut self, question: Question) -> Answer {
        self.send(Some(question)).message_response.unwrap()
    }

    /// The names of the files that answer a question, or the code of the error.
    fn files(&mut self, question: Question) -> Result<Vec<String>, i32> {
        match self.ask(question) {
            Answer::FileDescriptorResponse(files) => Ok(files
                .file_descriptor_proto
                .iter()
                .map(|file| FileDescriptorProto::parse_from_bytes(file).unwrap())
                .map(|file| file.name().to_owned())
                .collect()),
            Answer::ErrorResponse(error) => Err(error.error_code),
            other => panic!("{other:?}"),
        }
    }

    fn symbol(&mut self, name: &str) -> Result<Vec<String>, i32> {
        self.files(Question::FileContainingSymbol(name.to_owned()))
    }

    fn extension(&mut self, message: &str, number: i32) -> Result<Vec<String>, i32> {
        self.files(Question::FileContainingExtension(ExtensionRequest {
            containing_type: message.to_owned(),
            extension_number: number,
            ..ExtensionRequest::default()
        }))
    }

    fn extension_numbers(&mut self, message: &str) -> Result<Vec<i32>, i32> {
        match self.ask(Question::AllExtensionNumbersOfType(message.to_owned())) {
            Answer::AllExtensionNumbersResponse(numbers) => {
                assert_eq!(numbers.base_type_name, message);
                Ok(numbers.extension_number)
            }
            Answer::ErrorResponse(error) => Err(error.error_code),
            other => panic!("{other:?}"),
        }
    }

    /// Says that there are no more questions; the server has to agree.
    fn end(mut self) {
        match block_on(self.questions.close()) {
            // The server may have agreed before this thread looks.
            Ok(()) | Err(Error::RpcFinished(None)) => {}
            Err(error) => panic!("{error:?}"),
        }
        assert!(block_on(self.answers.next()).is_none());
    }
}

/// A file that imports others, defines a message of the same name as the file, and extends the
/// message of the first import, if there is one, with number 100.
fn file(name: &str, imports: &[&str]) -> FileDescriptorProto {
    let mut file = FileDescriptorProto::new();
    file.set_name(name.to_owned());
    file.set_package("test".to_owned());
    file.dependency = imports.iter().map(|&import| import.to_owned()).collect();
    let mut message = DescriptorProto::new();
    message.set_name(name.to_owned());
    file.message_type.push(message);
    if let Some(extended) = imports.first() {
        let mut extension = FieldDescriptorProto::new();
        extension.set_name(format!("{name}_mark"));
        extension.set_extendee(format!(".test.{extended}"));
        extension.set_number(100);
        extension.set_label(Label::LABEL_OPTIONAL);
        extension.set_type(Type::TYPE_INT32);
        file.extension.push(extension);
    }
    file
}

#[test]
fn both_versions_list_the_services() {
    let (_server, client) = start(&pb::files());
    for method in [INFO, INFO_V1ALPHA] {
        let mut talk = Talk::start(&client, &method);
        let Answer::ListServicesResponse(list) = talk.ask(Question::ListServices(String::new()))
        else {
            panic!("not a list of services");
        };
        let names: Vec<_> = list.service.iter().map(|service| &service.name).collect();
        assert_eq!(
            names,
            [
                "corecache.peer.v1.Peer",
                "corecache.v1.Cache",
                "corecache.v1.Cluster",
                "grpc.health.v1.Health",
                "grpc.reflection.v1.ServerReflection",
                "grpc.reflection.v1alpha.ServerReflection",
            ]
        );
        talk.end();
    }
}

#[test]
fn every_kind_of_symbol_leads_to_its_file() {
    let (_server, client) = start(&pb::files());
    let mut talk = Talk::start(&client, &INFO);
    let cache = Ok(vec!["corecache/v1/cache.proto".to_owned()]);
    let health = Ok(vec!["grpc/health/v1/health.proto".to_owned()]);
    for symbol in [
        "corecache.v1.Cache",
        "corecache.v1.Cache.GetMany",
        "corecache.v1.Value",
        "corecache.v1.Value.value",
        "corecache.v1.Answer.result",
    ] {
        assert_eq!(talk.symbol(symbol), cache, "{symbol}");
    }
    for symbol in [
        "grpc.health.v1.HealthCheckResponse.ServingStatus",
        "grpc.health.v1.HealthCheckResponse.SERVING",
        "grpc.health.v1.HealthListResponse.StatusesEntry",
    ] {
        assert_eq!(talk.symbol(symbol), health, "{symbol}");
    }
    for unknown in [
        "",
        "corecache",
        "corecache.v1.Teapot",
        ".corecache.v1.Value",
    ] {
        assert_eq!(talk.symbol(unknown), Err(NOT_FOUND), "{unknown}");
    }
    talk.end();
}

#[test]
fn a_file_comes_as_it_was_compiled() {
    let (_server, client) = start(&pb::files());
    let mut talk = Talk::start(&client, &INFO);
    for file in pb::files() {
        let answer = talk.ask(Question::FileByFilename(file.name().to_owned()));
        let Answer::FileDescriptorResponse(answer) = answer else {
            panic!("{answer:?}");
        };
        let [bytes] = &answer.file_descriptor_proto[..] else {
            panic!("{} files", answer.file_descriptor_proto.len());
        };
        assert_eq!(FileDescriptorProto::parse_from_bytes(bytes).unwrap(), file);
    }
    let unknown = talk.files(Question::FileByFilename("teapot.proto".to_owned()));
    assert_eq!(unknown, Err(NOT_FOUND));
    talk.end();
}

#[test]
fn a_file_comes_with_all_that_it_imports_once() {
    // d is imported on two ways; b and c import each other, which no compiler would let pass.
    let files = [
        file("a", &["b", "c", "not there"]),
        file("b", &["c", "d"]),
        file("c", &["b", "d"]),
        file("d", &[]),
    ];
    let (_server, client) = start(&files);
    let mut talk = Talk::start(&client, &INFO);
    let mut names = |name: &str| talk.symbol(name).unwrap().join(" ");
    assert_eq!(names("test.a"), "a b c d");
    assert_eq!(names("test.c"), "c b d");
    assert_eq!(names("test.d"), "d");
    assert_eq!(names("test.a"), "a b c d");
    talk.end();
}

#[test]
fn extensions_are_found_by_what_they_extend() {
    let (_server, client) = start(&[file("d", &[]), file("e", &["d"])]);
    let mut talk = Talk::start(&client, &INFO);
    let with_import = Ok(vec!["e".to_owned(), "d".to_owned()]);
    assert_eq!(talk.symbol("test.e_mark"), with_import);
    assert_eq!(talk.extension("test.d", 100), with_import);
    assert_eq!(talk.extension("test.d", 101), Err(NOT_FOUND));
    assert_eq!(talk.extension("test.e", 100), Err(NOT_FOUND));
    assert_eq!(talk.extension_numbers("test.d"), Ok(vec![100]));
    assert_eq!(talk.extension_numbers("test.e"), Ok(vec![]));
    assert_eq!(talk.extension_numbers("test.f"), Err(NOT_FOUND));
    talk.end();
}

#[test]
fn a_question_that_asks_nothing_is_answered_and_the_talk_goes_on() {
    let (_server, client) = start(&pb::files());
    let mut talk = Talk::start(&client, &INFO);
    match talk.send(None).message_response {
        Some(Answer::ErrorResponse(error)) => assert_eq!(error.error_code, INVALID_ARGUMENT),
        other => panic!("{other:?}"),
    }
    assert!(talk.symbol("corecache.v1.Value").is_ok());
    talk.end();
}

#[test]
fn bytes_that_are_no_question_end_the_talk_and_no_other() {
    const BYTES: Method<Vec<u8>, ServerReflectionResponse> = Method {
        ty: MethodType::Duplex,
        name: INFO.name,
        req_mar: Marshaller {
            ser: |bytes, slice| {
                *slice = bytes.clone().into();
                Ok(())
            },
            de: |_| unreachable!("only the server reads requests"),
        },
        resp_mar: INFO.resp_mar,
    };
    let (mut server, client) = start(&pb::files());
    let mut good = Talk::start(&client, &INFO);
    assert!(good.symbol("corecache.v1.Value").is_ok());

    let patience = CallOption::default().timeout(Duration::from_secs(30));
    let (mut questions, mut answers) = client.duplex_streaming(&BYTES, patience).unwrap();
    // Whether the sender sees the refusal already is a race; the answers always end with it.
    let _ = block_on(questions.send((vec![0xff; 100], WriteFlags::default())));
    match block_on(answers.next()) {
        Some(Err(Error::RpcFailure(status))) => {
            assert_eq!(status.code(), RpcStatusCode::INVALID_ARGUMENT);
        }
        other => panic!("{other:?}"),
    }

    assert!(good.symbol("corecache.v1.Value").is_ok());
    good.end();
    block_on(server.shutdown()).unwrap();
}
