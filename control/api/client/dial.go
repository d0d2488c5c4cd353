package client

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

const (
	connectTime = 4 * time.Second
	// handshakeTime is how long a reachable server has for the TLS handshake. When a replica fails, all agents
	// connect to another one at once and keep it busy for a while. The more agents give up and try again, the longer
	// that takes. If the server becomes unreachable meanwhile, the limit silence detects it.
	handshakeTime = 10 * time.Second
	// answerTime is how long one of several servers has to answer. It is longer than the time that a server waits for
	// a leader of its store, so that the client does not switch servers because of an election.
	answerTime = 12 * time.Second
	// silence is the time after which a connection counts as dead if the peer acknowledges nothing. It is needed
	// because a network that is cut reports no error. It is so short that the client notices two unreachable servers
	// within ten seconds, because a user may be waiting for Docker.
	silence = 4 * time.Second
)

func dial(endpoint string, config *tls.Config) (remote, *http.Transport, error) {
	t := &http.Transport{
		MaxIdleConns:          64,
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       90 * time.Second,
		ExpectContinueTimeout: 5 * time.Second,
		TLSHandshakeTimeout:   handshakeTime,
		DisableCompression:    true,
		TLSClientConfig:       config,
		DialContext: (&net.Dialer{
			Timeout:         connectTime,
			KeepAliveConfig: keepAlive(),
			Control:         limitUnacknowledged,
		}).DialContext,
	}
	if path, ok := strings.CutPrefix(endpoint, "unix://"); ok {
		if !strings.HasPrefix(path, "/") {
			return remote{}, nil, badEndpoint(endpoint)
		}
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
		return remote{"http://drover", endpoint, t}, t, nil
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.User != nil {
		return remote{}, nil, badEndpoint(endpoint)
	}
	return remote{u.Scheme + "://" + u.Host + strings.TrimSuffix(u.EscapedPath(), "/"), endpoint, t}, t, nil
}

func badEndpoint(endpoint string) error {
	hint := ""
	u, err := url.Parse(endpoint)
	_, _, notPair := net.SplitHostPort(endpoint)
	switch {
	case strings.HasPrefix(endpoint, "/"):
		hint = "; for this socket: unix://" + endpoint
	case err == nil && u.Scheme == "tcp" && u.Host != "":
		hint = "; for this host: https://" + u.Host
	case notPair == nil:
		hint = "; for this host: https://" + endpoint
	}
	return dataset.Errorf(dataset.ErrInvalid,
		"bad API address %q: want unix:///PATH, http://HOST:PORT or https://HOST:PORT%s", dataset.Clip(endpoint),
		dataset.Clip(hint))
}

func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: silence / 2, Interval: silence / 4, Count: 2}
}

// limitUnacknowledged limits how long sent data may stay unacknowledged. The default is 15 minutes (tcp(7),
// TCP_USER_TIMEOUT).
func limitUnacknowledged(network, _ string, c syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	var err error
	if cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silence.Milliseconds()))
	}); cerr != nil {
		return cerr
	}
	return err
}

// shuffle puts the servers in random order.
func shuffle(list []remote) {
	for i := len(list) - 1; i > 0; i-- {
		id := uuid.New() // from crypto/rand; the bias of a single byte does not matter
		j := int(id[0]) % (i + 1)
		list[i], list[j] = list[j], list[i]
	}
}
