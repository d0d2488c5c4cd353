package bolt_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/internal/clock"
)

// childEnv has the path of a store. If it is set, the test binary is a process that writes to that store until it is
// killed, and prints what was acknowledged.
const childEnv = "DROVER_TEST_BOLT_CHILD"

func child() bool {
	path := os.Getenv(childEnv)
	if path == "" {
		return false
	}
	s, err := bolt.Open(context.Background(), path, bolt.Options{Clock: clock.System{}})
	if err != nil {
		fmt.Println("error", err)
		return true
	}
	write(context.Background(), s, fmt.Sprint(os.Getpid()), func(key string) { fmt.Println("ack", key) })
	return true
}

// write writes pairs of keys from 16 callers until ctx ends or the store closes, and reports each acknowledged pair.
func write(ctx context.Context, s *bolt.Store, run string, ack func(key string)) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	for caller := range 16 {
		wg.Go(func() {
			for n := 0; ; n++ {
				key := fmt.Sprintf("%s-%d-%d", run, caller, n)
				value := strings.Repeat("v", rand.IntN(3000))
				_, err := s.Txn(ctx, []store.Precondition{{Key: "a/" + key}}, []store.Write{
					set("a/"+key, value), set("b/"+key, value), set("counter/"+fmt.Sprint(caller), fmt.Sprint(n)),
				})
				if ctx.Err() != nil || errors.Is(err, store.ErrClosed) {
					return
				}
				mu.Lock()
				if err != nil {
					ack("error " + err.Error())
				} else {
					ack(key)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

// whole opens the store and checks it against what was acknowledged: all acknowledged pairs are there, and of any
// other pair both keys or none.
func whole(t *testing.T, path string, acked []string) {
	t.Helper()
	s := open(t, path)
	defer shut(t, s)
	have := map[string]string{}
	for _, e := range all(t, s) {
		have[e.Key] = string(e.Value)
	}
	if n := s.Stats().Damaged; n != 0 {
		t.Errorf("%d values are damaged", n)
	}
	for _, key := range acked {
		if strings.HasPrefix(key, "error") {
			t.Error(key)
		}
		if _, ok := have["a/"+key]; !ok {
			t.Fatalf("%s was acknowledged and is lost", key)
		}
	}
	for key, value := range have {
		if rest, ok := strings.CutPrefix(key, "a/"); ok {
			if other, ok := have["b/"+rest]; !ok || other != value {
				t.Fatalf("half of %s is there", rest)
			}
		} else if rest, ok := strings.CutPrefix(key, "b/"); ok {
			if _, ok := have["a/"+rest]; !ok {
				t.Fatalf("half of %s is there", rest)
			}
		}
	}
}

func TestAcknowledgedSurvivesKill(t *testing.T) {
	path := pathIn(t.TempDir())
	var acked []string
	for round := range 8 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		limit := 1 + rand.IntN(600)
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			key, ok := strings.CutPrefix(lines.Text(), "ack ")
			if ok {
				acked = append(acked, key)
			}
			if n == limit {
				if err := cmd.Process.Kill(); err != nil { // SIGKILL
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil {
			t.Fatalf("round %d: the child ended by itself", round)
		}
		// The last line may have been truncated by the kill.
		if n := len(acked); n > 0 && strings.Count(acked[n-1], "-") < 2 {
			acked = acked[:n-1]
		}
		whole(t, path, acked)
	}
	if len(acked) == 0 {
		t.Error("nothing was acknowledged")
	}
	if left, err := filepath.Glob(path + "*"); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
