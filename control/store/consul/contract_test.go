package consul_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/consul"
	"github.com/droverhq/drover/control/store/storetest"
	"github.com/droverhq/drover/internal/clock"
	consultest "github.com/droverhq/drover/test/consul"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shortTTL is a store in a Consul that allows short sessions.
type shortTTL struct{ *consul.Store }

var _ storetest.ShortTTL = shortTTL{}

// TTL gives the suite some time between its steps on a busy machine.
func (shortTTL) TTL() time.Duration { return 3 * time.Second }

// open opens a store, which is closed after the test unless the test closes it.
func open(tb testing.TB, c *consultest.Cluster, prefix string) *consul.Store {
	tb.Helper()
	return openWith(tb, consul.Options{Addresses: c.Addresses(), Prefix: prefix, Token: c.Token})
}

func openWith(tb testing.TB, o consul.Options) *consul.Store {
	tb.Helper()
	o.Clock = clock.System{}
	s, err := consul.Open(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

func TestContract(t *testing.T) {
	c := consultest.Start(t, consultest.Options{})
	var n atomic.Int64
	storetest.Run(t, func(t *testing.T) store.Store {
		return shortTTL{open(t, c, fmt.Sprintf("t%d", n.Add(1)))}
	})
}
