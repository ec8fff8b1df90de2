// A stock Go client that calls nodes again and again until its standard input ends:
// rolling_restart SERVICE_CONFIG CALLERS PAUSE_MS GROUP ADDR...
package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"math/rand"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // lets a service config ask for it
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
)

const timeout = 20 * time.Second

// raw leaves messages as they are on the wire.
type raw struct{}

func (raw) Name() string                       { return "raw" }
func (raw) Marshal(v any) ([]byte, error)      { return v.([]byte), nil }
func (raw) Unmarshal(data []byte, v any) error { *v.(*[]byte) = data; return nil }

func main() {
	if len(os.Args) < 6 {
		log.Fatal("usage: rolling_restart SERVICE_CONFIG CALLERS PAUSE_MS GROUP ADDR...")
	}
	callers, err := strconv.Atoi(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	pauseMs, err := strconv.Atoi(os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	conn := connect(os.Args[1], os.Args[5:])
	defer conn.Close()

	var answered, failed atomic.Int64
	var stop atomic.Bool
	var warm, done sync.WaitGroup
	warm.Add(callers)
	done.Add(callers)
	for range make([]struct{}, callers) {
		go func() {
			defer done.Done()
			call(conn, request(os.Args[4]), &answered, &failed)
			warm.Done()
			for !stop.Load() {
				time.Sleep(time.Duration(rand.Int63n(int64(pauseMs)*2+1)) * time.Millisecond)
				call(conn, request(os.Args[4]), &answered, &failed)
			}
		}()
	}
	warm.Wait()
	fmt.Println("calling")
	io.Copy(io.Discard, os.Stdin)
	stop.Store(true)
	done.Wait()
	fmt.Printf("%d answered, %d failed\n", answered.Load(), failed.Load())
}

func connect(config string, addrs []string) *grpc.ClientConn {
	nodes := manual.NewBuilderWithScheme("nodes")
	var state resolver.State
	for _, addr := range addrs {
		state.Addresses = append(state.Addresses, resolver.Address{Addr: addr})
	}
	nodes.InitialState(state)
	reconnect := backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, MaxDelay: time.Second}
	conn, err := grpc.NewClient("nodes:///all",
		grpc.WithResolvers(nodes),
		grpc.WithDefaultServiceConfig(config),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: timeout}),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	return conn
}

// request is a GetRequest for the key "hot".
func request(group string) []byte {
	message := binary.AppendUvarint([]byte{1<<3 | 2}, uint64(len(group)))
	return append(append(message, group...), 2<<3|2, 3, 'h', 'o', 't')
}

func call(conn *grpc.ClientConn, request []byte, answered, failed *atomic.Int64) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var reply []byte
	err := conn.Invoke(ctx, "/corecache.v1.Cache/Get", request, &reply, grpc.ForceCodec(raw{}))
	if err == nil {
		answered.Add(1)
		return
	}
	log.Print(err)
	failed.Add(1)
}
