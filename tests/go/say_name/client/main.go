// The client of the tutorial on google.golang.org/grpc: client HOST:PORT NAME AGE
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"time"

	"corecache.test/say_name/pb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: client HOST:PORT NAME AGE")
	}
	age, err := strconv.ParseInt(os.Args[3], 10, 32)
	if err != nil {
		log.Fatal(err)
	}
	conn, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	answer, err := pb.SayHello(ctx, conn, pb.NewTeacher(os.Args[2], int32(age)))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("age: %d, name: %s\n", answer.Age(), answer.Name())
}
