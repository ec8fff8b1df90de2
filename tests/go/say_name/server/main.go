// The server of the tutorial on google.golang.org/grpc: server HOST:PORT
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"

	"corecache.test/say_name/pb"
	"google.golang.org/grpc"
)

type sayName struct{}

func (sayName) SayHello(_ context.Context, teacher pb.Teacher) (pb.Teacher, error) {
	return pb.NewTeacher(teacher.Name()+" is Sleeping! helloworld", teacher.Age()), nil
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: server HOST:PORT")
	}
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	pb.RegisterSayNameServer(server, sayName{})

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	go func() {
		<-stop
		server.GracefulStop()
	}()
	fmt.Println("listening on", listener.Addr())
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
}
