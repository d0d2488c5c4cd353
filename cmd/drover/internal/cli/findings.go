package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/requestid"
)

// Attention returns the number of findings that need attention.
func Attention(list []api.Finding) (n int) {
	for _, f := range list {
		if f.NeedsAttention() {
			n++
		}
	}
	return n
}

// Verdict fails if a finding needs attention. It decides the exit code of drover status and drover doctor.
func Verdict(list []api.Finding) error {
	if n := Attention(list); n > 0 {
		return verdict(n)
	}
	return nil
}

// IsVerdict reports whether an error is that of Verdict: the command has worked, and printed findings that need
// attention.
func IsVerdict(err error) bool {
	var n verdict
	return errors.As(err, &n)
}

// verdict is the number of findings that need attention.
type verdict int

func (n verdict) Error() string {
	if n == 1 {
		return "1 finding needs attention"
	}
	return fmt.Sprintf("%d findings need attention", int(n))
}

// Sort puts errors first and then warnings, each in the order of their subjects.
func Sort(list []api.Finding) {
	slices.SortStableFunc(list, func(x, y api.Finding) int {
		return cmp.Or(cmp.Compare(rank(x), rank(y)), cmp.Compare(x.Subject, y.Subject), cmp.Compare(x.Text, y.Text),
			cmp.Compare(x.Fix, y.Fix))
	})
}

func rank(f api.Finding) int {
	return slices.Index([]string{api.LevelError, api.LevelWarning, api.LevelInfo, api.LevelOK}, f.Level)
}

// FindingsTable returns the table of findings.
func FindingsTable(a *App, list []api.Finding) *Table {
	t := NewTable("LEVEL", "SUBJECT", "FINDING")
	for _, f := range list {
		t.Row(f.Level, f.Subject, f.Text)
		if f.Fix != "" { // on a separate line, because a long finding would push a column off the screen
			t.Below(2, "to do: "+f.Fix)
		}
	}
	p := a.Palette()
	t.Paint(0, func(s string) string {
		switch s {
		case api.LevelOK:
			return p.Green(s)
		case api.LevelWarning:
			return p.Yellow(s)
		case api.LevelError:
			return p.Red(s)
		}
		return s
	})
	return t
}

// Reported returns the findings that a node reported. If the report omits findings, Reported adds a finding that says
// so.
func Reported(n api.NodeFindings) []api.Finding {
	if n.Omitted == 0 {
		return n.Findings
	}
	return append(slices.Clone(n.Findings), condition.MoreFindings.Finding("agent", "", n.Omitted))
}

// OfNode is a finding about one node.
type OfNode struct {
	Node string
	api.Finding
}

// Merge returns the findings of nodes, sorted. Findings that differ only in the node become one. The subject names the
// nodes, unless local is the only one. The subject of a finding about a control replica says from which nodes the
// problem was seen, because the problem is not on these nodes.
func Merge(all []OfNode, local string) []api.Finding {
	nodes := map[api.Finding][]string{}
	var order []api.Finding
	for _, f := range all {
		if nodes[f.Finding] == nil {
			order = append(order, f.Finding)
		}
		if !slices.Contains(nodes[f.Finding], f.Node) {
			nodes[f.Finding] = append(nodes[f.Finding], f.Node)
		}
	}
	out := make([]api.Finding, 0, len(order))
	for _, f := range order {
		if names := nodes[f]; len(names) > 1 || names[0] != local {
			where := " on "
			if condition.ControlReplicaUnreachable.Is(f) {
				where = ", seen from "
			}
			f.Subject += where + Few(names)
		}
		out = append(out, f)
	}
	Sort(out)
	return out
}

// Few returns the first three of the sorted names, and the number of the other names.
func Few(names []string) string {
	names = slices.Sorted(slices.Values(names))
	if len(names) > 3 {
		return strings.Join(names[:3], ", ") + fmt.Sprintf(" and %d more", len(names)-3)
	}
	return strings.Join(names, ", ")
}

// containerNameTime is how long the engine may take to list its containers. The names are only a convenience.
const containerNameTime = time.Second

// elsewhereError is an error about a volume in use whose home is another node. Only that node can name the holders.
type elsewhereError struct {
	error
	node, volume string
}

func (e *elsewhereError) Unwrap() error { return e.error }

// PrintError writes an error as one line. If the error is about a volume in use, a line for each holder follows, or a
// line that says where the holders are known. If it is an internal error of a server, a line with the ID of the request
// follows.
func (a *App) PrintError(ctx context.Context, err error) {
	PrintError(a.ErrOut, err)
	if id := requestid.Of(ctx); id != "" && errors.Is(err, dataset.ErrInternal) {
		_, _ = fmt.Fprintf(a.ErrOut, "drover: the logs of the hosts say more: search them for %s=%s\n",
			requestid.Field, id)
	}
	var elsewhere *elsewhereError
	if errors.As(err, &elsewhere) {
		_, _ = fmt.Fprintf(a.ErrOut, "drover: only node %s knows who uses it: run drover volume inspect %s there\n",
			Clean(elsewhere.node), Clean(elsewhere.volume))
	}
	if held := dataset.HoldersOf(err); held != nil {
		for _, line := range a.HolderLines(ctx, *held) {
			_, _ = fmt.Fprintf(a.ErrOut, "drover: on node %s: %s\n", Clean(held.Node), line)
		}
	}
}

// withHolders adds the holders of the requested volume to an error that says that it is in use. Control decides some
// requests from the reports of nodes, and cannot examine a host. If the home is another node, the error names it. A
// superseded copy is not on the home, so an error about it stays as it is. A backup, restore or verification does not
// need the volume: what is in use is the repository.
func withHolders(ctx context.Context, c Remote, req api.Request, err error) error {
	if !errors.Is(err, dataset.ErrInUse) || dataset.HoldersOf(err) != nil || req.Volume == "" {
		return err
	}
	switch req.Kind {
	case dataset.OpDiscard, dataset.OpBackup, dataset.OpPush, dataset.OpVerify, dataset.OpImport:
		return err
	}
	held, heldErr := c.VolumeHolders(ctx, req.Volume)
	if errors.Is(heldErr, dataset.ErrUnsupported) { // this host is not the home
		if v, volumeErr := c.Volume(ctx, req.Volume); volumeErr == nil {
			return &elsewhereError{err, v.Node, v.Volume}
		}
	}
	if heldErr != nil || held.IsEmpty() {
		return err // the error names the use that is recorded
	}
	return dataset.WithHolders(err, held)
}

// HolderLines returns a line for each holder: who it is, and the command that ends its use. Lines about what could not
// be examined follow. It asks the engine of this host for the names of the containers, and shows only their short IDs
// if the engine does not answer in time. The result is empty only if nobody uses the dataset.
func (a *App) HolderLines(ctx context.Context, held dataset.Holders) (lines []string) {
	names := a.containerNames(ctx, held)
	for _, h := range held.List {
		name := names[h.Container]
		lines = append(lines, Clean(h.Describe(name)+"; to free it: "+h.HowToFree(name)))
	}
	if more := held.Total - len(held.List); more > 0 {
		lines = append(lines, fmt.Sprintf("%d further holders are not listed", more))
	}
	for _, line := range held.Unexamined {
		lines = append(lines, Clean("not examined, and may use it: "+line))
	}
	return lines
}

// containerNames returns the names of the containers among the holders by their IDs, as far as the engine of this host
// knows them. It asks the engine only if there is a container.
func (a *App) containerNames(ctx context.Context, held dataset.Holders) map[string]string {
	for _, h := range held.List {
		if h.Container != "" {
			return a.AllContainerNames(ctx)
		}
	}
	return nil
}

// AllContainerNames returns the names of the running containers of this host's engine by their full IDs. It returns
// none if the engine does not answer in time.
func (a *App) AllContainerNames(ctx context.Context) map[string]string {
	if a.ContainerNames == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, containerNameTime)
	defer cancel()
	names, err := a.ContainerNames(ctx)
	if err != nil {
		return nil // no engine, or one that does not answer: the short IDs must suffice
	}
	return names
}
