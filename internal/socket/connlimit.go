package socket

import (
	"container/list"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"sync"
)

// LimitOptions configure a Limiter. They must not change after NewLimiter.
type LimitOptions struct {
	// Max is the maximum number of strangers' connections.
	Max int
	// CheckPeer checks the certificate that a peer presented in the TLS handshake. It returns nil if the peer is known,
	// and an error if it is a stranger. If CheckPeer is nil, every peer is a stranger. It is called concurrently.
	CheckPeer func(tls.ConnectionState) error
	// OnClosed is called with the address of a stranger whose connection the Limiter closed because
	// there were too many. It must return at once. It may be nil, and is called concurrently if
	// Accept is.
	OnClosed func(netip.Addr)
}

// Limiter accepts every connection. It counts a connection as a stranger's until ConnState finds that the peer is
// known. When there are more strangers' connections than LimitOptions.Max, it closes the oldest connection
// of the network that has the most connections. A network is an IPv4 address, or the first 64 bits of an IPv6 address.
//
// So a known peer can always connect, even while strangers hold as many connections as they can. The known peer
// completes its handshake within milliseconds, before its connection is the oldest. If the Limiter refused the newest
// connection instead, strangers could keep known peers out.
//
// Safe for concurrent use.
type Limiter struct {
	net.Listener
	opts LimitOptions

	mu        sync.Mutex
	strangers map[netip.Prefix]*list.List // each a list of *conn, the oldest first
	count     int                         // the length of all lists together
	next      uint64                      // the number of the next connection
}

// NewLimiter returns a listener that accepts connections from l. Closing it closes l.
func NewLimiter(l net.Listener, opts LimitOptions) *Limiter {
	return &Limiter{Listener: l, opts: opts, strangers: map[netip.Prefix]*list.List{}}
}

// limitedConn is an accepted connection.
type limitedConn struct {
	net.Conn
	listener *Limiter
	address  netip.Addr
	network  netip.Prefix
	number   uint64 // connections are numbered in the order of Accept
	// element is the entry in Listener.strangers. It is nil once the peer is known or the connection
	// is closed. Guarded by Listener.mu.
	element *list.Element
}

// Accept returns the next connection, or the error of the underlying listener. It may close another
// connection, as Listener describes.
func (l *Limiter) Accept() (net.Conn, error) {
	accepted, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &limitedConn{Conn: accepted, listener: l}
	c.address, c.network = networkOf(accepted.RemoteAddr())
	if victim := l.enter(c); victim != nil {
		if tcp, ok := victim.Conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // a TCP reset: the kernel drops the buffers at once
		}
		_ = victim.Conn.Close() // fails if the server has just closed it
		if l.opts.OnClosed != nil {
			l.opts.OnClosed(victim.address)
		}
	}
	return c, nil
}

// networkOf returns the IP address of a peer and its network. Both are zero for a peer without an IP
// address, such as one on a unix socket.
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

// enter adds a connection to the list of strangers' connections. If the list is too long, it returns the connection
// that must be closed, and otherwise nil.
func (l *Limiter) enter(c *limitedConn) (victim *limitedConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.number = l.next
	l.next++
	connections := l.strangers[c.network]
	if connections == nil {
		connections = list.New()
		l.strangers[c.network] = connections
	}
	c.element = connections.PushBack(c)
	if l.count++; l.count <= l.opts.Max {
		return nil
	}
	longest := 0
	for _, connections := range l.strangers {
		oldest := connections.Front().Value.(*limitedConn)
		if connections.Len() > longest || connections.Len() == longest && oldest.number < victim.number {
			longest, victim = connections.Len(), oldest
		}
	}
	l.leaveLocked(victim)
	return victim
}

// leave removes a connection from the list of strangers' connections. Idempotent.
func (l *Limiter) leave(c *limitedConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leaveLocked(c)
}

func (l *Limiter) leaveLocked(c *limitedConn) {
	if c.element == nil {
		return
	}
	connections := l.strangers[c.network]
	connections.Remove(c.element)
	if connections.Len() == 0 {
		delete(l.strangers, c.network)
	}
	c.element = nil
	l.count--
}

// isStranger reports whether a connection counts as a stranger's.
func (l *Limiter) isStranger(c *limitedConn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return c.element != nil
}

// Strangers returns the number of strangers' connections.
func (l *Limiter) Strangers() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count
}

// ConnState is the ConnState function for an http.Server that serves TLS on this Listener. At each request of a
// connection that still counts as a stranger's, it asks Options.CheckPeer about the peer. The handshake is complete by
// then, so the peer has proven that it has the private key of its certificate.
func (l *Limiter) ConnState(nc net.Conn, state http.ConnState) {
	secure, ok := nc.(*tls.Conn)
	if !ok || state != http.StateActive || l.opts.CheckPeer == nil {
		return
	}
	c, ok := secure.NetConn().(*limitedConn)
	if !ok || !l.isStranger(c) {
		return
	}
	if shown := secure.ConnectionState(); shown.HandshakeComplete && l.opts.CheckPeer(shown) == nil {
		l.leave(c)
	}
}

// Close closes the connection.
func (c *limitedConn) Close() error {
	c.listener.leave(c)
	return c.Conn.Close()
}
