//! Generates the Rust messages of `proto/`, in pure Rust: `protoc` is not needed. Without the
//! feature `server` there is nothing to generate.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=proto");
    #[cfg(feature = "server")]
    messages::generate();
}

#[cfg(feature = "server")]
mod messages {
    use protobuf_codegen::Codegen;

    /// A folder of `OUT_DIR`, and the file whose messages it gets. Each file has a folder of its
    /// own, because the generated modules carry the base names of the files.
    const FILES: [(&str, &str); 8] = [
        ("corecache_v1", "proto/corecache/v1/cache.proto"),
        ("cluster_v1", "proto/corecache/v1/cluster.proto"),
        ("peer_v1", "proto/corecache/peer/v1/peer.proto"),
        ("etcd_v3", "proto/etcd/v3/etcd.proto"),
        ("health_v1", "proto/grpc/health/v1/health.proto"),
        ("reflection_v1", "proto/grpc/reflection/v1/reflection.proto"),
        (
            "reflection_v1alpha",
            "proto/grpc/reflection/v1alpha/reflection.proto",
        ),
        ("say_name", "proto/say_name.proto"),
    ];

    pub fn generate() {
        for (folder, file) in FILES {
            Codegen::new()
                .pure()
                .include("proto")
                .input(file)
                .cargo_out_dir(folder)
                .run_from_script();
        }
    }
}
