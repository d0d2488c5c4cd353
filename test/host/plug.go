package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/test/require"
)

// Plug speaks to the plugin as an engine does. It is safe for concurrent use.
type Plug struct {
	socket string
	client *http.Client
}

// Answer has every field of the plugin's answers.
type Answer struct {
	Err        string
	Mountpoint string
	Volume     *struct {
		Name, Mountpoint string
		Status           map[string]any
	}
	Volumes []struct{ Name, Mountpoint string }
}

// ErrBroken means that there was no answer: drover has ended, or closed the connection.
var ErrBroken = errors.New("no answer")

// Plug returns a Plug for this host, which is closed at the end of the test.
func (h *Host) Plug(t testing.TB) *Plug { return NewPlug(t, h.Socket()) }

// NewPlug returns a Plug for a socket, which is closed at the end of the test.
func NewPlug(t testing.TB, socket string) *Plug {
	p := &Plug{socket: socket}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", p.socket)
		},
		MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute, // a long test has many of these
	}
	p.client = &http.Client{Transport: transport, Timeout: 2 * time.Minute}
	t.Cleanup(transport.CloseIdleConnections)
	return p
}

// Call sends a request and returns the answer. The error is ErrBroken, or has the text of the plugin.
func (p *Plug) Call(method string, request any) (Answer, error) {
	var a Answer
	body, err := json.Marshal(request)
	if err != nil {
		return a, err
	}
	req, err := http.NewRequest(http.MethodPost, "http://plugin/"+method, bytes.NewReader(body))
	if err != nil {
		return a, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := p.client.Do(req)
	if err != nil {
		return a, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return a, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	if err := json.Unmarshal(raw, &a); err != nil {
		return a, fmt.Errorf("%s answered %q: %w", method, raw, err)
	}
	if a.Err != "" {
		return a, errors.New(a.Err)
	}
	return a, nil
}

// Create creates a volume.
func (p *Plug) Create(name string, options map[string]string) error {
	_, err := p.Call("VolumeDriver.Create", map[string]any{"Name": name, "Opts": options})
	return err
}

// Remove removes a volume.
func (p *Plug) Remove(name string) error {
	_, err := p.Call("VolumeDriver.Remove", map[string]any{"Name": name})
	return err
}

// Mount mounts a volume for a mount ID and returns its path.
func (p *Plug) Mount(name, id string) (string, error) {
	a, err := p.Call("VolumeDriver.Mount", map[string]any{"Name": name, "ID": id})
	return a.Mountpoint, err
}

// Unmount ends the use of a volume by a mount ID.
func (p *Plug) Unmount(name, id string) error {
	_, err := p.Call("VolumeDriver.Unmount", map[string]any{"Name": name, "ID": id})
	return err
}

// Within mounts a volume for one use, as a container does, and calls f with the mount point.
func (p *Plug) Within(t testing.TB, name string, f func(root string)) {
	t.Helper()
	id := NewID()
	root, err := p.Mount(name, id)
	require.NoErrorf(t, err, "mount %s", name)
	f(root)
	require.NoErrorf(t, p.Unmount(name, id), "unmount %s", name)
}

// Get returns a volume.
func (p *Plug) Get(name string) (Answer, error) {
	return p.Call("VolumeDriver.Get", map[string]any{"Name": name})
}

// Path returns where a volume is mounted.
func (p *Plug) Path(name string) (string, error) {
	a, err := p.Call("VolumeDriver.Path", map[string]any{"Name": name})
	return a.Mountpoint, err
}

// List returns the names of the volumes, as this engine uses them.
func (p *Plug) List() ([]string, error) {
	a, err := p.Call("VolumeDriver.List", map[string]any{})
	names := make([]string, len(a.Volumes))
	for i, v := range a.Volumes {
		names[i] = v.Name
	}
	return names, err
}

// Activate sends the request that an engine sends after its start.
func (p *Plug) Activate() error {
	_, err := p.Call("Plugin.Activate", nil)
	return err
}

// NewID returns a new mount ID as an engine makes it: 64 hexadecimal digits.
func NewID() string {
	return strings.ReplaceAll(uuid.NewString()+uuid.NewString(), "-", "")
}
