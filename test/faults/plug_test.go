package faults

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

	"github.com/droverhq/drover/test/host"
)

// plug speaks to the plugin as an engine does. Safe for concurrent use.
type plug struct {
	socket string
	client *http.Client
}

// answer is all that the plugin's answers can hold.
type answer struct {
	Err        string
	Mountpoint string
	Volume     *struct {
		Name, Mountpoint string
		Status           map[string]any
	}
	Volumes []struct{ Name, Mountpoint string }
}

// errBroken says that there was no answer: drover is gone, or hung up.
var errBroken = errors.New("no answer")

func newPlug(t testing.TB, h *host.Host) *plug {
	p := &plug{socket: h.Socket()}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", p.socket)
		},
		MaxIdleConnsPerHost: 64,
	}
	p.client = &http.Client{Transport: transport, Timeout: 2 * time.Minute}
	t.Cleanup(transport.CloseIdleConnections)
	return p
}

// call asks and returns the answer; errBroken, or an error with the plugin's text.
func (p *plug) call(method string, request any) (answer, error) {
	var a answer
	body, err := json.Marshal(request)
	if err != nil {
		return a, err
	}
	resp, err := p.client.Post("http://plugin/"+method, "application/json", bytes.NewReader(body))
	if err != nil {
		return a, fmt.Errorf("%w: %w", errBroken, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return a, fmt.Errorf("%w: %w", errBroken, err)
	}
	if err := json.Unmarshal(raw, &a); err != nil {
		return a, fmt.Errorf("%s answered %q: %w", method, raw, err)
	}
	if a.Err != "" {
		return a, errors.New(a.Err)
	}
	return a, nil
}

func (p *plug) create(name string, options map[string]string) error {
	_, err := p.call("VolumeDriver.Create", map[string]any{"Name": name, "Opts": options})
	return err
}

func (p *plug) remove(name string) error {
	_, err := p.call("VolumeDriver.Remove", map[string]any{"Name": name})
	return err
}

func (p *plug) mount(name, id string) (string, error) {
	a, err := p.call("VolumeDriver.Mount", map[string]any{"Name": name, "ID": id})
	return a.Mountpoint, err
}

func (p *plug) unmount(name, id string) error {
	_, err := p.call("VolumeDriver.Unmount", map[string]any{"Name": name, "ID": id})
	return err
}

func (p *plug) get(name string) (answer, error) {
	return p.call("VolumeDriver.Get", map[string]any{"Name": name})
}

func (p *plug) path(name string) (string, error) {
	a, err := p.call("VolumeDriver.Path", map[string]any{"Name": name})
	return a.Mountpoint, err
}

func (p *plug) list() ([]string, error) {
	a, err := p.call("VolumeDriver.List", map[string]any{})
	names := make([]string, len(a.Volumes))
	for i, v := range a.Volumes {
		names[i] = v.Name
	}
	return names, err
}

// activate is what an engine says when it has started.
func (p *plug) activate() error {
	_, err := p.call("Plugin.Activate", nil)
	return err
}

// newID makes a mount ID as an engine does: 64 hexadecimal digits.
func newID() string {
	return strings.ReplaceAll(uuid.NewString()+uuid.NewString(), "-", "")
}
