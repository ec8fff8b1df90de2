// A stock Go client that makes the calls of a list, and says how each ended: both_doors ADDR < CALLS
//
// A call is a line: a deadline in milliseconds, a compressor or -, a path, and the request in hex. So is its end: the code, the
// message, and the reply in hex.
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
	if len(os.Args) != 2 {
		log.Fatal("usage: both_doors ADDR < CALLS")
	}
	conn, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, math.MaxInt32)
	for lines.Scan() {
		call(conn, strings.Fields(lines.Text()))
	}
	if err := lines.Err(); err != nil {
		log.Fatal(err)
	}
}

func call(conn *grpc.ClientConn, words []string) {
	if len(words) < 3 {
		log.Fatalf("not a call: %q", words)
	}
	ms, err := strconv.Atoi(words[0])
	if err != nil {
		log.Fatal(err)
	}
	var request []byte
	if len(words) > 3 {
		if request, err = hex.DecodeString(words[3]); err != nil {
			log.Fatal(err)
		}
	}
	options := []grpc.CallOption{grpc.ForceCodec(raw{}), grpc.MaxCallRecvMsgSize(math.MaxInt32)}
	if words[1] != "-" {
		options = append(options, grpc.UseCompressor(words[1]))
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(ms)*time.Millisecond)
	defer cancel()
	var reply []byte
	err = conn.Invoke(ctx, words[2], request, &reply, options...)
	fmt.Printf("%v|%q|%x\n", status.Code(err), status.Convert(err).Message(), reply)
}
