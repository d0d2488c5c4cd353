package product

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/droverhq/drover/test/host"
)

// answer is what the plugin says to one request.
type answer struct {
	Status     int
	Err        string
	Mountpoint string
	Volume     *struct {
		Name, Mountpoint string
		Status           map[string]any
	}
	Volumes []struct{ Name, Mountpoint string }
}

// request is the body of all calls: each reads what it needs.
type request struct {
	Name string            `json:",omitempty"`
	ID   string            `json:",omitempty"`
	Opts map[string]string `json:",omitempty"`
}

// ask sends one request to the plugin's socket, as the engine would.
func ask(t testing.TB, h *host.Host, call string, req request) answer {
	t.Helper()
	body, err := json.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	return send(t, h, call, body)
}

func send(t testing.TB, h *host.Host, call string, body []byte) (a answer) {
	t.Helper()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", h.Socket())
	}
	client := http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}, Timeout: 2 * time.Minute}
	resp, err := client.Post("http://plugin/VolumeDriver."+call, "", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &a); err != nil {
		t.Fatalf("%s: %v in %s", call, err, text)
	}
	a.Status = resp.StatusCode
	return a
}
