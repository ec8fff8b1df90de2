//! Server reflection, `grpc.reflection.v1` and `v1alpha`: what ghz, grpcurl and the like ask to
//! work without a `.proto` file.
//!
//! The two versions have the same messages, so both paths lead to one implementation, which knows
//! the generated types of `v1` alone.

mod pool;

use std::sync::Arc;

use futures_util::future::{Either, select};
use futures_util::{SinkExt, StreamExt};
use grpcio::{
    DuplexSink, Error, Method, MethodType, RequestStream, RpcStatus, RpcStatusCode, Service,
    ServiceBuilder, WriteFlags,
};
use protobuf::MessageField;
use protobuf::descriptor::FileDescriptorProto;

pub(super) use self::pool::Pool;
use super::deadline::Over;
use super::pb;
use super::pb::reflection::server_reflection_request::Message_request as Question;
use super::pb::reflection::server_reflection_response::Message_response as Answer;
use super::pb::reflection::{
    ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse,
    ServerReflectionRequest, ServerReflectionResponse, ServiceResponse,
};
use super::service::Status;

/// Answers each question about services, messages and files.
pub const INFO: Method<ServerReflectionRequest, ServerReflectionResponse> = pb::method(
    MethodType::Duplex,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
);

/// The same as [`INFO`], under the older name that many clients still ask for.
pub const INFO_V1ALPHA: Method<ServerReflectionRequest, ServerReflectionResponse> = pb::method(
    MethodType::Duplex,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
);

/// Returns the gRPC service, of both versions, that describes `files` and all they define.
///
/// # Errors
///
/// If one of the files can not be encoded. Those of a compiler always can.
pub fn service(files: &[FileDescriptorProto]) -> protobuf::Result<Service> {
    let pool = Arc::new(Pool::new(files)?);
    let mut builder = ServiceBuilder::new();
    for method in [INFO, INFO_V1ALPHA] {
        let pool = pool.clone();
        builder = builder.add_duplex_streaming_handler(&method, move |ctx, requests, sink| {
            let (pool, over) = (pool.clone(), Over::of(&ctx));
            ctx.spawn(async move {
                if let Err(error) = converse(&pool, requests, sink, over).await {
                    log::debug!("reflection: the caller has gone: {error}");
                }
            });
        });
    }
    Ok(builder.build())
}

/// Answers questions one by one until the caller has no more, or no more time. The next one is read only when the
/// answer to the last has been sent, so a caller that does not read can not make them pile up.
async fn converse(
    pool: &Pool,
    mut requests: RequestStream<ServerReflectionRequest>,
    mut sink: DuplexSink<ServerReflectionResponse>,
    mut over: Over,
) -> grpcio::Result<()> {
    loop {
        let request = match select(&mut over, requests.next()).await {
            Either::Left(_) => return sink.fail(Status::over().into()).await,
            Either::Right((Some(request), _)) => request,
            Either::Right((None, _)) => break,
        };
        let request = match request {
            Ok(request) => request,
            Err(Error::Codec(error)) => return sink.fail(malformed(&error.to_string())).await,
            Err(error) => return Err(error),
        };
        let response = (respond(pool, request), WriteFlags::default());
        sink.send(response).await?;
    }
    sink.close().await
}

/// Answers one question, whichever door it has come in by.
pub(super) fn respond(pool: &Pool, request: ServerReflectionRequest) -> ServerReflectionResponse {
    let answer = answer(pool, request.message_request.as_ref());
    ServerReflectionResponse {
        valid_host: request.host.clone(),
        original_request: MessageField::some(request),
        message_response: Some(answer.unwrap_or_else(Answer::ErrorResponse)),
        ..ServerReflectionResponse::default()
    }
}

fn answer(pool: &Pool, question: Option<&Question>) -> Result<Answer, ErrorResponse> {
    match question {
        Some(Question::ListServices(_)) => Ok(services(pool)),
        Some(Question::FileByFilename(name)) => {
            files(pool.file(name)).ok_or_else(|| not_found("file", name))
        }
        Some(Question::FileContainingSymbol(name)) => {
            files(pool.file_of_symbol(name)).ok_or_else(|| not_found("symbol", name))
        }
        Some(Question::FileContainingExtension(extension)) => {
            let (message, number) = (&extension.containing_type, extension.extension_number);
            files(pool.file_of_extension(message, number))
                .ok_or_else(|| not_found(&format!("extension {number} of"), message))
        }
        Some(Question::AllExtensionNumbersOfType(message)) => {
            let numbers = pool.extension_numbers(message);
            numbers
                .map(|numbers| extension_numbers(message, numbers))
                .ok_or_else(|| not_found("message", message))
        }
        _ => Err(error(
            RpcStatusCode::INVALID_ARGUMENT,
            "the request asks for nothing; set one of the fields of `message_request`".to_owned(),
        )),
    }
}

fn files(files: Option<Vec<Vec<u8>>>) -> Option<Answer> {
    Some(Answer::FileDescriptorResponse(FileDescriptorResponse {
        file_descriptor_proto: files?,
        ..FileDescriptorResponse::default()
    }))
}

fn services(pool: &Pool) -> Answer {
    let service = |name: &String| ServiceResponse {
        name: name.clone(),
        ..ServiceResponse::default()
    };
    Answer::ListServicesResponse(ListServiceResponse {
        service: pool.services().iter().map(service).collect(),
        ..ListServiceResponse::default()
    })
}

fn extension_numbers(message: &str, numbers: Vec<i32>) -> Answer {
    Answer::AllExtensionNumbersResponse(ExtensionNumberResponse {
        base_type_name: message.to_owned(),
        extension_number: numbers,
        ..ExtensionNumberResponse::default()
    })
}

fn not_found(what: &str, name: &str) -> ErrorResponse {
    error(
        RpcStatusCode::NOT_FOUND,
        format!("this server has no {what} {name:?}"),
    )
}

fn error(code: RpcStatusCode, message: String) -> ErrorResponse {
    ErrorResponse {
        error_code: code.into(),
        error_message: message,
        ..ErrorResponse::default()
    }
}

fn malformed(error: &str) -> RpcStatus {
    RpcStatus::with_message(
        RpcStatusCode::INVALID_ARGUMENT,
        format!("the request is not a ServerReflectionRequest: {error}"),
    )
}
