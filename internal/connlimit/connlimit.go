// Package connlimit bounds how many connections of a listener belong to peers that have not
// shown who they are, so that strangers cannot use up the descriptors and the memory of a
// process, nor keep those out whom it knows.
package connlimit

import (
	"container/list"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"sync"
)

// Options say what a Listener does. They are not changed once it is made.
type Options struct {
	// Most is how many strangers may be connected at once.
	Most int
	// Known returns nil for a peer that is no stranger, from what it showed in the handshake.
	// If it is nil, every peer is a stranger.
	Known func(tls.ConnectionState) error
	// Closed is called with the address of a stranger whose connection was closed because there
	// were too many. It must return at once, and may be nil.
	Closed func(netip.Addr)
}

// Listener accepts every connection, and counts it as a stranger's until ConnState finds that the
// peer is known. When there are more strangers than Options.Most, it closes a connection: the
// oldest one of the network that has the most. A peer that is known later and quick to show it,
// as a handshake takes milliseconds, so gets in while others hold as many connections as they
// can. To refuse the newest connection instead would keep it out for as long as they do.
//
// A network is an IPv4 address, or the first 64 bits of an IPv6 address.
type Listener struct {
	net.Listener
	opts Options

	mu        sync.Mutex
	strangers map[netip.Prefix]*list.List // of *conn, the oldest first
	count     int
	next      uint64
}

// New returns a listener that accepts from l.
func New(l net.Listener, opts Options) *Listener {
	return &Listener{Listener: l, opts: opts, strangers: map[netip.Prefix]*list.List{}}
}

// conn is a connection that was accepted.
type conn struct {
	net.Conn
	of      *Listener
	address netip.Addr
	network netip.Prefix
	number  uint64        // in the order in which connections came
	place   *list.Element // among the strangers; nil: it is none, or closed. Guarded by of.mu
}

// Accept returns the next connection.
func (l *Listener) Accept() (net.Conn, error) {
	accepted, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: accepted, of: l}
	c.address, c.network = networkOf(accepted.RemoteAddr())
	if victim := l.enter(c); victim != nil {
		victim.reset()
		if l.opts.Closed != nil {
			l.opts.Closed(victim.address)
		}
	}
	return c, nil
}

// networkOf returns the address of a peer and its network; the zero values for what has none, such
// as a unix socket.
func networkOf(peer net.Addr) (netip.Addr, netip.Prefix) {
	tcp, ok := peer.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}, netip.Prefix{}
	}
	address := tcp.AddrPort().Addr().Unmap().WithZone("")
	bits := 64
	if address.Is4() {
		bits = 32
	}
	network, err := address.Prefix(bits)
	if err != nil {
		return netip.Addr{}, netip.Prefix{}
	}
	return address, network
}

// enter counts a connection among the strangers. It returns the one that must be closed, if any.
func (l *Listener) enter(c *conn) (victim *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.number = l.next
	l.next++
	of := l.strangers[c.network]
	if of == nil {
		of = list.New()
		l.strangers[c.network] = of
	}
	c.place = of.PushBack(c)
	if l.count++; l.count <= l.opts.Most {
		return nil
	}
	most := 0
	for _, of := range l.strangers {
		oldest := of.Front().Value.(*conn)
		if of.Len() > most || of.Len() == most && oldest.number < victim.number {
			most, victim = of.Len(), oldest
		}
	}
	l.leaveLocked(victim)
	return victim
}

// leave takes a connection out of the strangers. Idempotent.
func (l *Listener) leave(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leaveLocked(c)
}

func (l *Listener) leaveLocked(c *conn) {
	if c.place == nil {
		return
	}
	of := l.strangers[c.network]
	of.Remove(c.place)
	if of.Len() == 0 {
		delete(l.strangers, c.network)
	}
	c.place = nil
	l.count--
}

// stranger reports whether a connection counts as a stranger's.
func (l *Listener) stranger(c *conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return c.place != nil
}

// Strangers is how many strangers are connected.
func (l *Listener) Strangers() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count
}

// ConnState is for http.Server, over TLS. With the first request, when the handshake is complete
// and the peer has proven that it has the key of its certificate, it looks whether the peer is
// known.
func (l *Listener) ConnState(of net.Conn, state http.ConnState) {
	secure, ok := of.(*tls.Conn)
	if !ok || state != http.StateActive || l.opts.Known == nil {
		return
	}
	c, ok := secure.NetConn().(*conn)
	if !ok || !l.stranger(c) {
		return
	}
	if shown := secure.ConnectionState(); shown.HandshakeComplete && l.opts.Known(shown) == nil {
		l.leave(c)
	}
}

// Close closes the connection.
func (c *conn) Close() error {
	c.of.leave(c)
	return c.Conn.Close()
}

// reset closes the connection at once: the kernel keeps nothing of it either.
func (c *conn) reset() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Conn.Close() // which the server may have done just now
}
