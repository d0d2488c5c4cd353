package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/dataset"
	testconsul "github.com/droverhq/drover/test/consul"
)

// A host joins with a token from the socket of control, works, and is refused after it was removed. The audit log names
// who made these changes.
func TestJoinAndLeave(t *testing.T) {
	l := newLab(t)
	servers := testconsul.Start(t, testconsul.Options{})
	c := l.control("c1", servers.Addresses())
	l.start(Control, c)
	root, err := client.New("unix://" + filepath.Join(c.Run, "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	token, err := root.MakeToken(t.Context(), api.NewToken{})
	if err != nil {
		t.Fatal(err)
	}
	a := l.agent("a", c)
	if err := os.RemoveAll(filepath.Join(a.Root, "tls")); err != nil {
		t.Fatal(err)
	}
	if err := Agent(t.Context(), a); !errors.Is(err, dataset.ErrNotFound) || !strings.Contains(err.Error(), "start the agent with --join") {
		t.Fatal(err)
	}
	a.Join = token.Token
	r := l.start(Agent, a)
	nodes, err := root.NodeList(t.Context(), "")
	if err != nil || len(nodes) != 1 || nodes[0].Name != "a" || len(nodes[0].Pools) != 1 {
		t.Fatalf("%+v, %v", nodes, err)
	}
	r.end(t)
	r = l.start(Agent, a) // the same flag does not make it join again
	local, err := client.New("unix://" + filepath.Join(a.Run, "drover.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	if _, err := local.Volumes(t.Context(), api.Page{}); err != nil {
		t.Error(err)
	}
	if _, err := local.MakeToken(t.Context(), api.NewToken{}); !errors.Is(err, dataset.ErrUnsupported) {
		t.Error("a host makes tokens:", err)
	}
	if _, err := root.RemoveNode(t.Context(), "a", api.NodeRemoval{}); err != nil {
		t.Fatal(err)
	}
	if _, err := local.Volumes(t.Context(), api.Page{}); !errors.Is(err, dataset.ErrRemoved) || !strings.Contains(err.Error(), "was removed from the cluster at") {
		t.Error(err)
	}
	r.end(t)
	log, err := os.ReadFile(filepath.Join(c.Root, "audit.log"))
	if err != nil || strings.Contains(string(log), token.Token) {
		t.Fatal(err)
	}
	for _, want := range []string{`"who":"local uid 0","from":"uid 0","what":"make-token"`, `"what":"join"`, `"what":"register-node"`, `"what":"remove-node","node":"a"`} {
		if !strings.Contains(string(log), want) {
			t.Errorf("no %s in\n%s", want, log)
		}
	}
}
