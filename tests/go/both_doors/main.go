// A stock Go client that makes the calls of a list, and says how each ended: both_doors ADDR AT_ONCE < CALLS
//
// A call is a line: a deadline in milliseconds, a compressor or -, a path, and the request in hex. So is its end: the code, and
// in hex the message and the reply. Ends come in the order of the calls, of which so many are open at once, on one connection.
package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"log"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"
)

// raw leaves messages as they are on the wire.
type raw struct{}

func (raw) Name() string                       { return "raw" }
func (raw) Marshal(v any) ([]byte, error)      { return v.([]byte), nil }
func (raw) Unmarshal(data []byte, v any) error { *v.(*[]byte) = data; return nil }

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: both_doors ADDR AT_ONCE < CALLS")
	}
	atOnce, err := strconv.Atoi(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	conn, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	// One more is open than lie there: the one whose end is waited for.
	open := make(chan chan string, atOnce-1)
	go func() {
		defer close(open)
		lines := bufio.NewScanner(os.Stdin)
		lines.Buffer(nil, math.MaxInt32)
		for lines.Scan() {
			words := strings.Split(lines.Text(), " ")
			end := make(chan string, 1)
			open <- end
			go func() { end <- call(conn, words) }()
		}
		if err := lines.Err(); err != nil {
			log.Fatal(err)
		}
	}()
	for end := range open {
		fmt.Println(<-end)
	}
}

func call(conn *grpc.ClientConn, words []string) string {
	if len(words) != 4 {
		log.Fatalf("not a call: %q", words)
	}
	ms, err := strconv.Atoi(words[0])
	if err != nil {
		log.Fatal(err)
	}
	request, err := hex.DecodeString(words[3])
	if err != nil {
		log.Fatal(err)
	}
	options := []grpc.CallOption{grpc.ForceCodec(raw{}), grpc.MaxCallRecvMsgSize(math.MaxInt32)}
	if words[1] != "-" {
		options = append(options, grpc.UseCompressor(words[1]))
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(ms)*time.Millisecond)
	defer cancel()
	var reply []byte
	err = conn.Invoke(ctx, words[2], request, &reply, options...)
	return fmt.Sprintf("%v|%x|%x", status.Code(err), status.Convert(err).Message(), reply)
}
