//! Descriptor files, and where in them each name is defined.

use std::collections::{BTreeMap, HashMap, HashSet};

use protobuf::Message;
use protobuf::descriptor::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    ServiceDescriptorProto,
};

/// A set of descriptor files. Names are full names without a leading dot.
#[derive(Default)]
pub struct Pool {
    files: Vec<File>,
    by_name: HashMap<String, FileIndex>,
    by_symbol: HashMap<String, FileIndex>,
    /// By the message that is extended and the number of the extension.
    by_extension: BTreeMap<(String, i32), FileIndex>,
    messages: HashSet<String>,
    services: Vec<String>,
}

type FileIndex = usize;

struct File {
    encoded: Vec<u8>,
    imports: Vec<String>,
}

impl Pool {
    /// Returns the pool of these files. If two of them define one name, the first has it.
    pub fn new(files: &[FileDescriptorProto]) -> protobuf::Result<Pool> {
        let mut pool = Pool::default();
        for file in files {
            if !pool.by_name.contains_key(file.name()) {
                pool.add_file(file)?;
            }
        }
        pool.services.sort();
        Ok(pool)
    }

    /// The full names of all services, in order.
    pub fn services(&self) -> &[String] {
        &self.services
    }

    /// The encoded file of this name, followed by all files that it imports, directly or not.
    /// Imports that are not in the pool are left out.
    pub fn file(&self, name: &str) -> Option<Vec<Vec<u8>>> {
        Some(self.with_imports(*self.by_name.get(name)?))
    }

    /// The same for the file that defines a service, a method, a message, a field, a oneof, an
    /// enum, a value of an enum, or an extension.
    pub fn file_of_symbol(&self, name: &str) -> Option<Vec<Vec<u8>>> {
        Some(self.with_imports(*self.by_symbol.get(name)?))
    }

    /// The same for the file that defines extension `number` of `message`.
    pub fn file_of_extension(&self, message: &str, number: i32) -> Option<Vec<Vec<u8>>> {
        let key = (message.to_owned(), number);
        Some(self.with_imports(*self.by_extension.get(&key)?))
    }

    /// The numbers of all extensions of `message`, in order, or `None` if there is no such
    /// message.
    pub fn extension_numbers(&self, message: &str) -> Option<Vec<i32>> {
        let all = (message.to_owned(), i32::MIN)..=(message.to_owned(), i32::MAX);
        let numbers: Vec<i32> = self.by_extension.range(all).map(|(key, _)| key.1).collect();
        let known = !numbers.is_empty() || self.messages.contains(message);
        known.then_some(numbers)
    }

    fn with_imports(&self, first: FileIndex) -> Vec<Vec<u8>> {
        let mut files = vec![first];
        let mut done = 0;
        while done < files.len() {
            for import in &self.files[files[done]].imports {
                if let Some(&import) = self.by_name.get(import)
                    && !files.contains(&import)
                {
                    files.push(import);
                }
            }
            done += 1;
        }
        let encoded = |file: FileIndex| self.files[file].encoded.clone();
        files.into_iter().map(encoded).collect()
    }

    fn add_file(&mut self, file: &FileDescriptorProto) -> protobuf::Result<()> {
        let index = self.files.len();
        self.by_name.insert(file.name().to_owned(), index);
        self.files.push(File {
            encoded: file.write_to_bytes()?,
            imports: file.dependency.clone(),
        });
        let package = file.package();
        for message in &file.message_type {
            self.add_message(index, package, message);
        }
        for enumeration in &file.enum_type {
            self.add_enum(index, package, enumeration);
        }
        for extension in &file.extension {
            self.add_extension(index, package, extension);
        }
        for service in &file.service {
            self.add_service(index, package, service);
        }
        Ok(())
    }

    fn add_message(&mut self, file: FileIndex, scope: &str, message: &DescriptorProto) {
        let name = self.add_symbol(file, scope, message.name());
        for field in &message.field {
            self.add_symbol(file, &name, field.name());
        }
        for oneof in &message.oneof_decl {
            self.add_symbol(file, &name, oneof.name());
        }
        for extension in &message.extension {
            self.add_extension(file, &name, extension);
        }
        for enumeration in &message.enum_type {
            self.add_enum(file, &name, enumeration);
        }
        for nested in &message.nested_type {
            self.add_message(file, &name, nested);
        }
        self.messages.insert(name);
    }

    /// The values of an enum are in the scope that the enum is in, beside it.
    fn add_enum(&mut self, file: FileIndex, scope: &str, enumeration: &EnumDescriptorProto) {
        self.add_symbol(file, scope, enumeration.name());
        for value in &enumeration.value {
            self.add_symbol(file, scope, value.name());
        }
    }

    fn add_extension(&mut self, file: FileIndex, scope: &str, extension: &FieldDescriptorProto) {
        self.add_symbol(file, scope, extension.name());
        let extended = extension.extendee().trim_start_matches('.').to_owned();
        let key = (extended, extension.number());
        self.by_extension.entry(key).or_insert(file);
    }

    fn add_service(&mut self, file: FileIndex, scope: &str, service: &ServiceDescriptorProto) {
        let name = self.add_symbol(file, scope, service.name());
        for method in &service.method {
            self.add_symbol(file, &name, method.name());
        }
        self.services.push(name);
    }

    fn add_symbol(&mut self, file: FileIndex, scope: &str, name: &str) -> String {
        let symbol = match scope {
            "" => name.to_owned(),
            scope => format!("{scope}.{name}"),
        };
        self.by_symbol.entry(symbol.clone()).or_insert(file);
        symbol
    }
}
