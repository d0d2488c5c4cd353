package socket

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/droverhq/drover/test/require"
)

// listen returns a listener on loopback, and a function that returns the addresses of the connections
// that the listener closed.
func listenLimited(t *testing.T, opts LimitOptions) (l *Limiter, closed func() []string) {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var mu sync.Mutex
	var all []string
	opts.OnClosed = func(of netip.Addr) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, of.String())
	}
	l = NewLimiter(inner, opts)
	t.Cleanup(func() { l.Close() })
	return l, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}

// dial connects from an address of this host.
func dial(t *testing.T, l *Limiter, from string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// isOpen reports whether the other end has not closed a connection. Nothing may be sent on it.
func isOpen(t *testing.T, c net.Conn, wantClosed bool) bool {
	t.Helper()
	wait := 10 * time.Millisecond
	if wantClosed {
		wait = 10 * time.Second
	}
	require.NoError(t, c.SetReadDeadline(time.Now().Add(wait)))
	_, err := c.Read(make([]byte, 1))
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// The listener closes the oldest connection of the address that has the most. An address with few
// connections loses none.
func TestOldestOfTheAddressWithMostIsClosed(t *testing.T) {
	l, closed := listenLimited(t, LimitOptions{Max: 4})
	from := []string{"127.0.0.3", "127.0.0.2", "127.0.0.2", "127.0.0.2", "127.0.0.2", "127.0.0.4", "127.0.0.2"}
	var ours []net.Conn
	for _, address := range from {
		ours = append(ours, dial(t, l, address))
		c, err := l.Accept()
		require.NoError(t, err)
		defer c.Close()
		if l.Strangers() > 4 {
			t.Fatalf("%d strangers", l.Strangers())
		}
	}
	for i, c := range ours {
		gone := slices.Contains([]int{1, 2, 3}, i)
		if isOpen(t, c, gone) == gone {
			t.Errorf("connection %d, from %s: closed is not %v", i, from[i], gone)
		}
	}
	if got := closed(); !slices.Equal(got, []string{"127.0.0.2", "127.0.0.2", "127.0.0.2"}) {
		t.Errorf("closed: %v", got)
	}
}

// If several addresses have the most connections, the listener closes the oldest of all of these, so a
// new peer gets in even if strangers use many addresses.
func TestOldestOfAllIsClosed(t *testing.T) {
	l, closed := listenLimited(t, LimitOptions{Max: 3})
	var want []string
	for i := range 20 {
		address := fmt.Sprintf("127.0.1.%d", i+1)
		dial(t, l, address)
		c, err := l.Accept()
		require.NoError(t, err)
		defer c.Close()
		if i < 17 {
			want = append(want, address)
		}
	}
	if got := closed(); !slices.Equal(got, want) {
		t.Errorf("closed %v, want %v", got, want)
	}
}

// A closed connection no longer counts, whichever end closes it and however often. Many peers connect
// and disconnect concurrently.
func TestEveryConnectionIsCountedOnce(t *testing.T) {
	l, _ := listenLimited(t, LimitOptions{Max: 8})
	var wg sync.WaitGroup
	for i := range 64 {
		dial(t, l, fmt.Sprintf("127.0.2.%d", i%5+1))
		c, err := l.Accept()
		require.NoError(t, err)
		wg.Go(func() {
			for range 2 {
				c.Close()
			}
		})
	}
	wg.Wait()
	if n := l.Strangers(); n != 0 || len(l.strangers) != 0 {
		t.Errorf("%d strangers left, of %d networks", n, len(l.strangers))
	}
}

// A known peer keeps its connection, whatever strangers do. A peer whose certificate Options.CheckPeer
// rejects stays a stranger.
func TestKnownPeerKeepsItsConnection(t *testing.T) {
	good := errors.New("not known")
	l, closed := listenLimited(t, LimitOptions{Max: 2, CheckPeer: func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) == 0 || cs.ServerName != "known" {
			return good
		}
		return nil
	}})
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.RemoteAddr)
	}))
	s.Listener.Close()
	s.Listener, s.TLS = l, &tls.Config{ClientAuth: tls.RequestClientCert}
	s.Config.ConnState = l.ConnState
	s.StartTLS()
	defer s.Close()
	client := func(name string) *http.Client {
		return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
			InsecureSkipVerify: true, ServerName: name, Certificates: s.TLS.Certificates,
		}}}
	}
	get := func(c *http.Client) (address string, reused bool, err error) {
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			GotConn: func(g httptrace.GotConnInfo) { reused = g.Reused },
		})
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+l.Addr().String(), nil)
		require.NoError(t, err)
		resp, err := c.Do(req)
		if err != nil {
			return "", reused, err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return string(b), reused, err
	}
	known, other := client("known"), client("other")
	defer known.CloseIdleConnections()
	defer other.CloseIdleConnections()
	for what, c := range map[string]*http.Client{"known": known, "other": other} {
		if _, _, err := get(c); err != nil {
			t.Fatal(what, err)
		}
	}
	if n := l.Strangers(); n != 1 {
		t.Errorf("%d strangers, want the one that is not known", n)
	}
	for range 20 {
		dial(t, l, "127.0.0.1")
	}
	// all but two of 21
	for late := time.Now().Add(30 * time.Second); len(closed()) < 19; time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("%d connections were closed", len(closed()))
		}
	}
	if _, reused, err := get(known); err != nil || !reused {
		t.Errorf("the known peer lost its connection: %v", err)
	}
	if n := l.Strangers(); n != 2 {
		t.Errorf("%d strangers", n)
	}
}

func TestNetworkOf(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.7":          "192.0.2.7/32",
		"::ffff:192.0.2.7":   "192.0.2.7/32",
		"2001:db8:1:2:3::4":  "2001:db8:1:2::/64",
		"2001:db8:1:2:ff::9": "2001:db8:1:2::/64",
	} {
		_, got := networkOf(&net.TCPAddr{IP: net.ParseIP(in), Port: 1})
		if got.String() != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	if _, got := networkOf(&net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0"}); got.String() != "fe80::/64" {
		t.Error(got)
	}
	if _, got := networkOf(&net.UnixAddr{Name: "/x"}); got.IsValid() {
		t.Error(got)
	}
}
