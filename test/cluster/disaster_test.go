package cluster_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/internal/restic/restictest"
	"github.com/droverhq/drover/internal/tree/treetest"
	"github.com/droverhq/drover/test/cluster"
)

// TestDisaster loses a cluster: the hosts with their pools and agents' databases, control and Consul. Only a repository
// in a directory that all hosts share remains, and its password. A new cluster, whose hosts have other identities,
// recovers each volume on the host that asks for it. In the short form, the cluster has one host.
func TestDisaster(t *testing.T) {
	elsewhere := t.TempDir()
	at, secret := filepath.Join(elsewhere, "offsite"), filepath.Join(elsewhere, "password")
	if err := os.WriteFile(secret, []byte("correct horse battery staple"), 0o600); err != nil {
		t.Fatal(err)
	}
	volumes := [][]string{{"db", "web"}} // of each host
	if long.Enabled() {
		volumes = append(volumes, []string{"cache"}, []string{"queue"})
	}
	all := slices.Concat(volumes...)
	small := cluster.Options{
		Consul: 1, Controls: 1, Hosts: len(volumes), Engines: -1, Profiles: profiles, Lease: lease,
	}
	content := func(volume string) []byte { return treetest.Bytes(uint64(len(volume)), 4<<20) }
	t.Run("lost", func(t *testing.T) {
		c := cluster.New(t, small)
		restictest.Make(t, at, "correct horse battery staple")
		// The agent of the host opens the repository, and control records it.
		c.Hosts[0].Must(t, "--api", c.Controls[0].API(), "repository", "add", "offsite", at, "--password", "file:"+secret)
		for i, h := range c.Hosts {
			for _, v := range volumes[i] {
				h.Must(t, "volume", "create", v+"@gold", "-o", "label.host="+h.Name)
				mounted(t, h, v, func(root string) {
					for name, text := range map[string][]byte{"data": content(v), "name": []byte(v)} {
						if err := os.WriteFile(h.File(filepath.Join(root, name)), text, 0o640); err != nil {
							t.Fatal(err)
						}
					}
				})
			}
			h.Must(t, append([]string{"backup", "create"}, volumes[i]...)...)
		}
	})
	t.Run("recovered", func(t *testing.T) {
		c := cluster.New(t, small)
		for i, h := range c.Hosts {
			if i == 0 {
				list := h.Must(t, "--api", c.Controls[0].API(), "recover", "--from", at, "--name", "offsite", "--password", "file:"+secret)
				if n := strings.Count(list, " absent"); n != len(all) {
					t.Errorf("%d volumes can be recovered: %s", n, list)
				}
			}
			out := h.Must(t, append([]string{"recover", "--from", "offsite", "--take-over"}, volumes[i]...)...)
			if want := fmt.Sprintf("%d of %[1]d volumes are recovered", len(volumes[i])); !strings.HasSuffix(out, want) {
				t.Errorf("%s: got %q, want %q", h.Name, out, want)
			}
		}
		for i, h := range c.Hosts {
			for _, v := range volumes[i] {
				mounted(t, h, v, func(root string) {
					for name, want := range map[string][]byte{"data": content(v), "name": []byte(v)} {
						got, err := os.ReadFile(h.File(filepath.Join(root, name)))
						if err != nil || !bytes.Equal(got, want) {
							t.Errorf("%s has %d bytes in %s, %v", v, len(got), name, err)
						}
					}
				})
				if got := h.Inspect(t, v); got.Node != h.Name || got.Labels["host"] != h.Name || got.Profile.Name != "gold" {
					t.Errorf("%s: got home %s, labels %v, profile %s", v, got.Node, got.Labels, got.Profile.Name)
				}
			}
		}
		if list := strings.Fields(c.Hosts[0].Must(t, "volume", "ls", "-q")); len(list) != len(all) {
			t.Errorf("%d volumes exist, want %d", len(list), len(all))
		}
	})
}
