// Package pb is proto/say_name.proto for Go, described at run time, so that
// neither protoc nor generated code is needed.
package pb

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

const sayHello = "/pb.SayName/SayHello"

var (
	teacher   = describeTeacher()
	ageField  = teacher.Fields().ByName("age")
	nameField = teacher.Fields().ByName("name")
)

func describeTeacher() protoreflect.MessageDescriptor {
	field := func(name string, number int32, kind descriptorpb.FieldDescriptorProto_Type) *descriptorpb.FieldDescriptorProto {
		return &descriptorpb.FieldDescriptorProto{
			Name:   proto.String(name),
			Number: proto.Int32(number),
			Type:   kind.Enum(),
			Label:  descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
		}
	}
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name:    proto.String("say_name.proto"),
		Package: proto.String("pb"),
		Syntax:  proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{
			Name: proto.String("Teacher"),
			Field: []*descriptorpb.FieldDescriptorProto{
				field("age", 1, descriptorpb.FieldDescriptorProto_TYPE_INT32),
				field("name", 2, descriptorpb.FieldDescriptorProto_TYPE_STRING),
			},
		}},
	}, nil)
	if err != nil {
		panic(err)
	}
	return file.Messages().ByName("Teacher")
}

// Teacher is a message of type pb.Teacher.
type Teacher struct{ *dynamicpb.Message }

func NewTeacher(name string, age int32) Teacher {
	t := Teacher{dynamicpb.NewMessage(teacher)}
	t.Set(nameField, protoreflect.ValueOfString(name))
	t.Set(ageField, protoreflect.ValueOfInt32(age))
	return t
}

func (t Teacher) Age() int32   { return int32(t.Get(ageField).Int()) }
func (t Teacher) Name() string { return t.Get(nameField).String() }

// SayNameServer is what a server has to implement.
type SayNameServer interface {
	SayHello(context.Context, Teacher) (Teacher, error)
}

// RegisterSayNameServer makes a gRPC server answer calls of service pb.SayName.
func RegisterSayNameServer(registrar grpc.ServiceRegistrar, server SayNameServer) {
	registrar.RegisterService(&grpc.ServiceDesc{
		ServiceName: "pb.SayName",
		HandlerType: (*SayNameServer)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "SayHello", Handler: handleSayHello}},
	}, server)
}

func handleSayHello(server any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	request := NewTeacher("", 0)
	if err := decode(request.Message); err != nil {
		return nil, err
	}
	reply, err := server.(SayNameServer).SayHello(ctx, request)
	return reply.Message, err
}

// SayHello calls a server.
func SayHello(ctx context.Context, conn grpc.ClientConnInterface, request Teacher) (Teacher, error) {
	reply := NewTeacher("", 0)
	err := conn.Invoke(ctx, sayHello, request.Message, reply.Message)
	return reply, err
}
