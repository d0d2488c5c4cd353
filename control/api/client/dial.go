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

	"github.com/droverhq/drover/dataset"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

const (
	connectTime = 4 * time.Second
	// handshakeTime is what a server has that is there: all agents at once, whose replica
	// died, keep another busy for a while, and the longer the more of them give up and begin
	// anew. One that is cut off meanwhile is found out by silence.
	handshakeTime = 10 * time.Second
	// answerTime is what one of several servers has to answer: more than it waits for
	// a leader of its store, so that it is not left for that.
	answerTime = 12 * time.Second
	// silence is after how long a connection whose peer acknowledges nothing is
	// dead: a cut network says nothing. Two servers that are both cut off have ten seconds
	// together, for whoever waits behind Docker.
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
			Control:         giveUp,
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
	return dataset.Errorf(dataset.ErrInvalid,
		"bad API address %q: want unix:///PATH, http://HOST:PORT or https://HOST:PORT", dataset.Clip(endpoint))
}

func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: silence / 2, Interval: silence / 4, Count: 2}
}

// giveUp bounds how long what was sent may stay unacknowledged: 15 minutes
// otherwise (tcp(7), TCP_USER_TIMEOUT).
func giveUp(network, _ string, c syscall.RawConn) error {
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

// shuffle puts the servers in an order of this client's own.
func shuffle(list []remote) {
	for i := len(list) - 1; i > 0; i-- {
		id := uuid.New() // of crypto/rand; the bias of a byte does not matter
		j := int(id[0]) % (i + 1)
		list[i], list[j] = list[j], list[i]
	}
}
