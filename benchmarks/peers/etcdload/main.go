// Closed-loop load on etcd through its own Go client: `callers` goroutines over `connections` connections.
// Prints the account that benchmarks/tally.py reads.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/etcd/clientv3"
)

type account struct {
	Latencies  []int64 `json:"latencies_us"`
	Wall       float64 `json:"wall_seconds"`
	CPU        float64 `json:"cpu_seconds"`
	Errors     int     `json:"errors"`
	FirstError string  `json:"first_error"`
}

func main() {
	endpoints := flag.String("endpoints", "", "host:port,...")
	callers := flag.Int("callers", 1, "")
	connections := flag.Int("connections", 1, "")
	seconds := flag.Float64("seconds", 1, "")
	size := flag.Int("size", 144, "bytes of a value")
	verb := flag.String("verb", "put", "put | get (linearizable)")
	keys := flag.Int("keys", 1000, "how many keys there are to get")
	prefix := flag.String("prefix", "/run/", "of the keys put")
	fill := flag.Bool("fill", false, "put the keys that get asks for, and end")
	flag.Parse()

	var clients []*clientv3.Client
	for i := 0; i < *connections; i++ {
		c, err := clientv3.New(clientv3.Config{Endpoints: strings.Split(*endpoints, ","), DialTimeout: 5 * time.Second})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if _, err := c.Get(context.Background(), "/"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		clients = append(clients, c)
	}
	value := strings.Repeat("v", *size)
	known := func(k int) string { return fmt.Sprintf("/known/known-%06d", k) }
	if *fill {
		for k := 0; k < *keys; k++ {
			if _, err := clients[0].Put(context.Background(), known(k), value); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
		return
	}

	var mu sync.Mutex
	var wg sync.WaitGroup
	var all account
	before := cpu()
	begin := time.Now()
	end := begin.Add(time.Duration(*seconds * float64(time.Second)))
	for g := 0; g < *callers; g++ {
		wg.Add(1)
		go func(g int) {
			defer wg.Done()
			c := clients[g%len(clients)]
			dice := rand.New(rand.NewSource(int64(g)))
			var own account
			for k := 0; time.Now().Before(end); k++ {
				t := time.Now()
				var err error
				if *verb == "put" {
					_, err = c.Put(context.Background(), fmt.Sprintf("%s%d-%04d-%08d", *prefix, os.Getpid(), g, k), value)
				} else {
					_, err = c.Get(context.Background(), known(dice.Intn(*keys)))
				}
				if err != nil {
					own.Errors++
					own.FirstError = err.Error()
					continue
				}
				own.Latencies = append(own.Latencies, time.Since(t).Microseconds())
			}
			mu.Lock()
			all.Latencies = append(all.Latencies, own.Latencies...)
			all.Errors += own.Errors
			if all.FirstError == "" {
				all.FirstError = own.FirstError
			}
			mu.Unlock()
		}(g)
	}
	wg.Wait()
	all.Wall = time.Since(begin).Seconds()
	all.CPU = cpu() - before
	json.NewEncoder(os.Stdout).Encode(all)
}

func cpu() float64 {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
}
