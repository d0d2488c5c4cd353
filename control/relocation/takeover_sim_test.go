package relocation_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/test/require"
)

// taker stands for a host. What it holds lasts as long as the host can justify it (agent/lease/boundedlease.go), and
// its guard fences it then. The agent's code makes its promises, and the guard is the real one.
type taker struct {
	*controltest.Agent
	name       string
	keeper     *lease.Keeper
	cut, alone bool // from control, or from the other hosts
	session    bool // control has registered it, and it has read since then of which volume it is the home
	epoch      uint64
	sent       time.Duration // the last renewal with an answer
	heard      time.Duration // the last report that control received
	deadline   time.Duration
	vows       map[*taker]time.Duration
	ask        []uuid.UUID        // which hosts may continue from a copy, as read from the record last
	op         *dataset.Operation // the promotion that it must carry out
	sentry     *sentry
}

// takeovers is a cluster whose volume db goes to another host when its home is lost.
type takeovers struct {
	*controltest.LostHome
	r, r2 *rand.Rand
	all   []*taker
}

// At most one host at a time writes to a volume that fails over automatically: however sessions end, hosts are cut
// off from control and from each other, and promotions are late. Each seed is one schedule.
func TestTakeoversDoNotOverlap(t *testing.T) {
	for seed := range uint64(long.Rounds(26, 200)) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			uuid.SetRand(rand.NewChaCha8([32]byte{byte(seed)})) // some choices are made by their order
			defer uuid.SetRand(nil)
			w := &takeovers{LostHome: controltest.NewLostHome(t, 1), r: rand.New(rand.NewPCG(seed, 3)), r2: rand.New(rand.NewPCG(seed, 4))}
			for i, a := range []*controltest.Agent{w.Alpha, w.Beta, w.Gamma} {
				n := &taker{Agent: a, name: []string{"alpha", "beta", "gamma"}[i], session: true, sent: w.now(), vows: map[*taker]time.Duration{}}
				n.keeper = lease.NewKeeper(w.Clock)
				n.keeper.SetReady()
				n.sentry = w.sentry(n, t.TempDir())
				w.all = append(w.all, n)
			}
			for i := range 7 { // so that the loss of three is not a mass loss
				w.Others = append(w.Others, w.NewAgent(fmt.Sprint("other", i)))
			}
			w.all[0].epoch, w.all[0].ask = w.Dataset.Epoch, w.MustVolume("db").Followers()
			w.feed(w.all[0])
			for range 250 {
				w.Wait(w.Timing.Session/20, w.Others...)
				w.tick()
				if w.wrong(); t.Failed() {
					return
				}
			}
		})
	}
}

func (w *takeovers) now() time.Duration { return w.Clock.Steady() }

func (w *takeovers) oneIn(n int) bool { return w.r.IntN(n) == 0 }

func (w *takeovers) wrong() {
	var who *taker
	for _, n := range w.all {
		if !n.sentry.open() {
			continue
		}
		if who != nil {
			w.Errorf("%s writes at epoch %d and %s at epoch %d", who.name, who.epoch, n.name, n.epoch)
		}
		who = n
	}
}

// tick runs what happens in one twentieth of a session's time.
func (w *takeovers) tick() {
	w.befall()
	w.OK(w.RecordUnreachable(w.Ctx))
	for _, n := range w.all {
		if !n.cut {
			n.heard = w.now()
			w.renews(n)
		} else if w.now()-n.heard >= w.Timing.Session*19/20 { // and not by a timer, which can fire at any time
			w.ends(n)
		}
		w.feed(n)
	}
	for _, n := range w.all {
		w.promotes(n)
		if n.cut || n.epoch > 0 || !w.oneIn(4) {
			continue
		}
		if op, err := w.AskFailover(w.Service, n.name); err == nil && op != nil {
			for _, other := range w.all {
				if other.ID == op.Node && other.op == nil {
					other.op = op
				}
			}
		}
	}
}

// befall causes a failure, or ends one.
func (w *takeovers) befall() {
	n := w.all[w.r.IntN(len(w.all))]
	switch w.r.IntN(24) {
	case 0, 1:
		n.cut = true
	case 2:
		n.alone = true
	case 3, 7, 8:
		w.ends(n) // before it is due
	case 4, 5, 6:
		n.cut, n.alone = false, false
	}
	if n = w.all[w.r2.IntN(len(w.all))]; w.r2.IntN(60) == 0 && !n.cut && n.session && n.epoch == 0 {
		w.overtaken(n)
	}
}

// overtaken has a node discover that the volume does not contain what its copy has.
func (w *takeovers) overtaken(n *taker) {
	d := w.MustVolume("db")
	c := dataset.Copy{Dataset: d.ID, Node: n.ID, Kind: dataset.CopySuperseded, Epoch: d.Epoch, Snapshot: uuid.New(), Taken: w.Clock.Now()}
	if err := w.ReportCopy(w.Ctx, n.ID, api.CopyReport{Incarnation: n.Incarnation, Copy: c}); err != nil && dataset.KindOf(err) != dataset.ErrStale {
		w.Fatalf("%v", err)
	}
}

// ends ends the session of a node's agent.
func (w *takeovers) ends(n *taker) {
	var is record.Alive
	there, err := record.NewTx(w.Ctx, w.Replicas.Store).Peek(record.LiveNodeKey(n.ID), &is)
	if err == nil && there {
		err = w.Replicas.Store.End(w.Ctx, is.Session)
	}
	require.NoError(w, err)
}

// renews reports that an agent is alive. An agent that control does not know any more registers, and then reads of
// which volumes it is the home.
func (w *takeovers) renews(n *taker) {
	st, err := w.Renew(w.Ctx, n.ID, n.Incarnation)
	switch {
	case err != nil || st.TTL == 0:
		n.session = false
		n.ForgetSession(n.ID)
		n.MustRegister(n.name)
	case !n.session:
		n.session, n.sent = true, w.now()
		n.keeper.SetReady()
		if epoch := w.reads(n); epoch != n.epoch {
			n.epoch, n.deadline, n.vows = epoch, 0, map[*taker]time.Duration{}
		}
	default:
		n.sent = w.now()
		if w.r2.IntN(5) == 0 {
			w.reads(n)
		}
	}
	n.ReportGuard()
	if d := w.MustVolume("db"); d.Home == w.Alpha.ID && n.ID != w.Alpha.ID {
		n.ReportCurrentCopy(d.Dataset, w.Clock.Now(), w.Clock.Now())
	}
}

// reads has a node read of which volumes it is the home, and which nodes may continue from copies of them.
func (w *takeovers) reads(n *taker) (epoch uint64) {
	for _, d := range n.MustSync(0).Datasets {
		epoch, n.ask = d.Epoch, d.Followers()
	}
	return epoch
}

// feed tells a host's guard until when the host may write: until its session ends or, while control is silent, until
// the time promised by all nodes that may continue from a copy.
func (w *takeovers) feed(n *taker) {
	if n.epoch == 0 {
		n.sentry.gives()
		return
	}
	defer n.sentry.feeds()
	session, span := time.Duration(0), w.Timing.Session
	if n.session {
		session = n.sent + lease.HolderSpan(span)
	}
	silent := w.now()-n.sent >= span/5
	var promised []time.Duration
	for _, peer := range w.all {
		if peer == n || !slices.Contains(n.ask, peer.ID) || !silent || n.deadline <= w.now() {
			continue
		}
		if !n.alone && !peer.alone {
			asked := lease.Request{Epochs: []lease.Epoch{{Dataset: w.Dataset.ID, Epoch: n.epoch}}}
			a := peer.keeper.Grant(n.ID, asked, span, func(lease.Epoch) string {
				if peer.epoch > n.epoch {
					return "it is here"
				}
				return ""
			})
			if len(a.Granted) == 1 {
				n.vows[peer] = a.ValidUntil(w.now())
			}
		}
		promised = append(promised, n.vows[peer])
	}
	n.deadline = lease.Extend(n.deadline, session, w.now(), span, silent, promised)
}

// promotes carries out the next step of a promotion.
func (w *takeovers) promotes(n *taker) {
	if n.op == nil || n.cut || !n.session || w.oneIn(3) {
		return
	}
	if _, wait := n.keeper.BlockPromises(lease.Epoch{Dataset: w.Dataset.ID, Epoch: n.op.Epoch}, w.Timing.Session); wait > 0 {
		return
	}
	out, err := w.Commit(w.Ctx, n.ID, n.ReportOf(*n.op))
	n.keeper.AllowPromises(w.Dataset.ID)
	n.op = nil
	if err != nil {
		return
	}
	n.epoch, n.deadline, n.vows, n.ask = out.Dataset.Epoch, 0, map[*taker]time.Duration{}, out.Dataset.Followers()
	w.feed(n)
}
