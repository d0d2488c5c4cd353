package lease

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/droverhq/drover/dataset"
)

const boundTTL = 100 * time.Second

var nodeP, nodeQ, first, second = uuid.New(), uuid.New(), uuid.New(), uuid.New()

// Until when a dataset may be written to, depending on the requests that were sent and answered.
func TestExtend(t *testing.T) {
	at := func(seconds int) time.Duration { return time.Duration(seconds) * time.Second }
	read := func(sent int) controlSession {
		return controlSession{session: first, sent: at(sent), ttl: boundTTL, streak: 1, readStreak: 1}
	}
	doubted := read(990)
	doubted.inconsistent = true
	type row struct {
		t      controlSession
		h      boundedLease
		copies []uuid.UUID
		loud   bool // control answers
		want   int
	}
	// promised is a row in which the only other node has promised. All arguments are times.
	promised := func(sent, deadline, promise, want int) row {
		return row{
			t:      read(sent),
			h:      boundedLease{deadline: at(deadline), promises: vows(nodeP, at(promise))},
			copies: []uuid.UUID{nodeP},
			want:   want,
		}
	}
	for name, c := range map[string]row{
		"nothing is known": {want: 0},
		"renewed, and nothing read": {
			t: controlSession{session: first, sent: at(990), ttl: boundTTL, streak: 1}, want: 0,
		},
		"read during another session": {t: controlSession{
			session:    second,
			sent:       at(990),
			ttl:        boundTTL,
			streak:     2,
			readStreak: 1,
		}, want: 0},
		"renewed and read":                  {t: read(990), want: 1050},
		"as the session says, and no more":  {t: read(990), h: boundedLease{deadline: at(1020)}, loud: true, want: 1050},
		"an earlier word is not taken back": {t: read(900), h: boundedLease{deadline: at(1020)}, loud: true, want: 1020},
		"nobody could take over":            {t: read(950), h: boundedLease{deadline: at(1010)}, want: 1060},
		"nobody could, but it has lapsed":   {t: read(900), h: boundedLease{deadline: at(960)}, want: 960},
		"all promised": {
			t:      read(950),
			h:      boundedLease{deadline: at(1010), promises: vows(nodeP, at(1055), nodeQ, at(1040))},
			copies: []uuid.UUID{nodeP, nodeQ},
			want:   1040,
		},
		"all promised, and it has lapsed": promised(900, 1000, 1055, 1000),
		"all promised, during no session": {
			t:      controlSession{session: second, sent: at(950), ttl: boundTTL, streak: 2, readStreak: 1},
			h:      boundedLease{deadline: at(1010), promises: vows(nodeP, at(1055))},
			copies: []uuid.UUID{nodeP},
			want:   1055,
		},
		"one did not": {
			t:      read(950),
			h:      boundedLease{deadline: at(1010), promises: vows(nodeP, at(1055))},
			copies: []uuid.UUID{nodeP, nodeQ},
			want:   1010,
		},
		"one that was given something": {
			t:      read(950),
			h:      boundedLease{deadline: at(1010), promises: vows(nodeP, at(1055)), enrolled: map[uuid.UUID]enrolment{nodeQ: {}}},
			copies: []uuid.UUID{nodeP},
			want:   1010,
		},
		"promises that end before": promised(950, 1030, 1020, 1030),
		"promises count while control does": {
			t:      read(980),
			h:      boundedLease{deadline: at(1010), promises: vows(nodeP, at(1059))},
			copies: []uuid.UUID{nodeP},
			loud:   true,
			want:   1040,
		},
		"a watchdog is slower than promises": {
			t:      read(990),
			h:      boundedLease{deadline: at(1010), fenceTime: at(130), promises: vows(nodeP, at(1055))},
			copies: []uuid.UUID{nodeP},
			want:   1050,
		},
		"a fence that is slow, by promises": {
			t:      read(900),
			h:      boundedLease{deadline: at(1010), fenceTime: at(40), promises: vows(nodeP, at(1055))},
			copies: []uuid.UUID{nodeP},
			want:   1045,
		},
		"a fence that is slower than control": {
			t:      read(990),
			h:      boundedLease{fenceTime: at(140)},
			copies: []uuid.UUID{nodeP},
			want:   1040,
		},
		"begun on a store that is doubted": {t: doubted, want: 0},
		"lapsed, and the store is doubted": {t: doubted, h: boundedLease{deadline: at(1000)}, want: 1000},
		"held, and the store is doubted":   {t: doubted, h: boundedLease{deadline: at(1001)}, loud: true, want: 1050},
		"no session was ever known, and vows": {
			h:      boundedLease{promises: vows(nodeP, at(1059))},
			copies: []uuid.UUID{nodeP},
			want:   0,
		},
	} {
		if got := c.h.extend(&c.t, c.copies, !c.loud, at(1000)); got != at(c.want) {
			t.Errorf("%s: until %v, want %v", name, got, at(c.want))
		}
	}
	h := boundedLease{epoch: 3, deadline: at(1010), promises: vows(nodeP, at(1055)), enrolled: map[uuid.UUID]enrolment{nodeQ: {}}}
	h.addPromise(nodeQ, 2, at(1050))
	if h.promises[nodeQ] != 0 {
		t.Error("a promise of another epoch counts")
	}
	if h.setEpoch(4); h.deadline != 0 || len(h.promises) > 0 || len(h.enrolled) != 1 {
		t.Errorf("at another epoch: %+v", h)
	}
	h = boundedLease{deadline: at(1010)}
	for name, c := range map[string]struct {
		t    controlSession
		want bool
	}{
		"beyond what control vouches for": {read(900), false},
		"as far as control vouches":       {read(950), true},
		"read during another session": {controlSession{
			session:    second,
			sent:       at(990),
			ttl:        boundTTL,
			streak:     2,
			readStreak: 1,
		}, false},
	} {
		if h.enrol(&c.t, nodeP, at(1000)) != c.want || (len(h.enrolled) == 1) != c.want {
			t.Errorf("enrolled while it is held %s: %t", name, !c.want)
		}
		h.enrolled = nil
	}
	for deadline, want := range map[int]bool{970: true, 971: false} {
		gone := controlSession{session: second, sent: at(900), ttl: boundTTL, streak: 2, readStreak: 1}
		if h = (boundedLease{deadline: at(deadline)}); h.enrol(&gone, nodeP, at(1000)) != want {
			t.Errorf("enrolled when it was held until %d: %t", deadline, !want)
		}
	}
	tn := read(990)
	if tn.renew(first, at(980), boundTTL, at(1000)); tn.until() != at(1050) {
		t.Error("an answer that was overtaken takes time away")
	}
	if tn.renew(first, at(1040), boundTTL, at(1050)); tn.until() != at(1100) {
		t.Error("an answer that comes in time does not count")
	}
	if tn.renew(first, at(1099), boundTTL, at(1101)); !tn.mustRead() || tn.until() != 0 {
		t.Error("a read counts although the renewals after it had lapsed")
	}
	if tn.setRead(1); !tn.mustRead() {
		t.Error("an answer counts although it was requested before the renewals lapsed")
	}
	if tn.setRead(tn.streak); tn.until() != at(1159) {
		t.Error("a read after that does not count")
	}
}

// How long a fence may take after a deadline: control waits longer for a session than the nodes that promised.
func TestFenceMay(t *testing.T) {
	at := func(seconds int) time.Duration { return time.Duration(seconds) * time.Second }
	read := controlSession{session: first, sent: at(990), ttl: boundTTL, streak: 1, readStreak: 1} // until 1050
	for name, c := range map[string]struct {
		t              controlSession
		fence          time.Duration
		deadline, want int
	}{
		"by the session":                  {read, at(20), 1050, 130},
		"by promises":                     {read, at(20), 1051, 30},
		"by promises, with a slow fence":  {read, at(40), 1051, 40},
		"by the session, with a slow one": {read, at(140), 1040, 140},
		"a slow one, later than that":     {read, at(140), 1041, 140},
		"by promises, without a session":  {controlSession{ttl: boundTTL}, at(20), 1000, 30},
	} {
		h := boundedLease{fenceTime: c.fence, deadline: at(c.deadline)}
		if got := h.allowedFenceTime(&c.t, h.deadline); got != at(c.want) {
			t.Errorf("%s: %v, want %v", name, got, at(c.want))
		}
	}
}

func vows(pairs ...any) map[uuid.UUID]time.Duration {
	out := map[uuid.UUID]time.Duration{}
	for i := 0; i < len(pairs); i += 2 {
		out[pairs[i].(uuid.UUID)] = pairs[i+1].(time.Duration)
	}
	return out
}

// boundModel is a holder with its environment: control, whose session ends as early as it may, and peers that take
// over as early as they may. Messages arrive late, in any order, or never.
type boundModel struct {
	now       time.Duration
	session   uuid.UUID     // the session that is alive
	ended     time.Duration // when the last session ended
	fence     time.Duration // how long the fence of the holder takes
	arrived   time.Duration
	copies    []uuid.UUID
	spent     map[uuid.UUID]bool          // peers whose copy was superseded
	has       map[uuid.UUID]bool          // peers that have data of the dataset
	sworn     map[uuid.UUID]time.Duration // until when peers open nothing
	messages  []func()
	took      bool // somebody took over
	state     controlSession
	hold      boundedLease
	seen      []uuid.UUID // followers as the holder read them last
	overtaken bool        // the holder read that a peer took over
	saved     uuid.UUID   // the session that is in a backup of the store
	boots     int
	move      uuid.UUID // target of an unrecorded transfer: no other node is given data
	restored  bool      // the store was restored: it does not know who took over, and is halted
}

func (m *boundModel) send(f func()) { m.messages = append(m.messages, f) }

// answer sends a message to the holder, which asked during one of its boots. The holder no longer waits for it after
// the next boot.
func (m *boundModel) answer(boot int, f func()) {
	m.send(func() {
		if m.boots == boot {
			f()
		}
	})
}

func (m *boundModel) renew() {
	sent, boot := m.now, m.boots
	m.send(func() {
		if m.session == uuid.Nil {
			return
		}
		session := m.session
		m.arrived = m.now
		m.answer(boot, func() { m.state.renew(session, sent, boundTTL, m.now) })
	})
}

func (m *boundModel) read() {
	streak, boot, sent := m.state.streak, m.boots, m.now
	m.send(func() {
		took, restored, d := m.took, m.restored, dataset.Dataset{
			Copies:           slices.Clone(m.copies),
			SupersededCopies: slices.Collect(maps.Keys(m.spent)),
			Move:             m.move,
		}
		m.answer(boot, func() {
			if m.state.inconsistent = m.state.inconsistent || restored; restored {
				return
			}
			m.seen, m.overtaken = d.Followers(), m.overtaken || took
			for _, node := range m.hold.unneededNodes(d, sent) {
				delete(m.hold.enrolled, node)
			}
			if !took {
				m.state.setRead(streak)
			}
		})
	})
}

func (m *boundModel) ask(peer uuid.UUID) {
	sent, boot := m.now, m.boots
	m.send(func() {
		if m.took {
			return
		}
		m.sworn[peer] = m.now + boundTTL
		m.answer(boot, func() { m.hold.addPromise(peer, m.hold.epoch, sent+HolderSpan(boundTTL)) })
	})
}

// takesOver reports whether a peer opens the next epoch.
func (m *boundModel) takesOver(peer uuid.UUID) bool {
	waited := m.fence <= usualFenceTime(boundTTL) || m.now >= m.ended+boundTTL
	return m.session == uuid.Nil && waited && !m.took && !m.restored && slices.Contains(m.copies, peer) &&
		!m.spent[peer] && m.has[peer] && m.sworn[peer] <= m.now
}

// Whatever messages are late or lost, everything that this node has open is fenced before another node can take over.
func TestI1BoundsEndInTime(t *testing.T) {
	const rounds = 600 // with a hundred runs each
	takeovers := 0
	run := func(t *rapid.T) {
		m := &boundModel{
			now:     time.Hour,
			session: uuid.New(),
			spent:   map[uuid.UUID]bool{},
			has:     map[uuid.UUID]bool{},
			sworn:   map[uuid.UUID]time.Duration{},
		}
		m.fence = rapid.SampledFrom([]time.Duration{0, boundTTL * 2 / 10, boundTTL * 3 / 10, boundTTL * 6 / 10,
			boundTTL * 13 / 10}).Draw(t, "fence")
		m.hold.fenceTime = m.fence
		m.saved = m.session
		m.arrived = m.now
		m.state = controlSession{session: m.session, sent: m.now, ttl: boundTTL, streak: 1, readStreak: 1}
		if rapid.Bool().Draw(t, "late") { // the holder was cut off and superseded, and the store restored
			m.hold.extend(&m.state, nil, false, m.now)
			m.now += 2 * boundTTL
			m.took, m.restored, m.arrived = true, true, m.now
		}
		peers := []uuid.UUID{nodeP, nodeQ}
		switch rapid.IntRange(0, 2).Draw(t, "begins") { // different starts, so that more can happen in a run
		case 0:
			m.copies = []uuid.UUID{nodeP, nodeQ}
			m.seen = m.copies
			m.has[nodeP], m.has[nodeQ] = m.hold.enrol(&m.state, nodeP, m.now), m.hold.enrol(&m.state, nodeQ, m.now)
		case 1: // a lost home is reachable again, and the holder is about to read that
			m.copies = []uuid.UUID{nodeQ}
			m.spent[nodeQ], m.has[nodeQ] = true, true
			m.read()
			m.messages[0]()
			m.messages = m.messages[1:]
			m.now++
		}
		message := func(t *rapid.T) {
			if len(m.messages) == 0 {
				return
			}
			i := rapid.IntRange(0, len(m.messages)-1).Draw(t, "which")
			f := m.messages[i]
			m.messages = slices.Delete(m.messages, i, i+1)
			f()
		}
		peer := func(t *rapid.T) uuid.UUID { return rapid.SampledFrom(peers).Draw(t, "peer") }
		t.Repeat(map[string]func(*rapid.T){
			"time":    func(t *rapid.T) { m.now += time.Duration(rapid.IntRange(1, 60).Draw(t, "s")) * time.Second },
			"message": message, "another message": message, "one more message": message,
			"register": func(*rapid.T) {
				m.send(func() {
					if m.session == uuid.Nil {
						m.session, m.arrived = uuid.New(), m.now
					}
				})
			},
			"expire": func(t *rapid.T) {
				if m.session != uuid.Nil && rapid.Bool().Draw(t, "wait") {
					m.now = max(m.now, m.arrived+boundTTL)
				}
				if m.now >= m.arrived+boundTTL {
					m.session, m.ended = uuid.Nil, m.now
				}
			},
			"back up": func(*rapid.T) {
				if !m.took && m.session != uuid.Nil {
					m.saved = m.session
				}
			},
			"put back": func(*rapid.T) {
				if m.took && !m.restored {
					m.session, m.arrived, m.restored = m.saved, m.now, true
				}
			},
			"reboot": func(*rapid.T) {
				if m.took {
					m.state, m.hold.deadline, m.hold.promises, m.overtaken = controlSession{}, 0, nil, false
					m.boots++
				}
			},
			"renew": func(*rapid.T) { m.renew() },
			"read":  func(*rapid.T) { m.read() },
			"ask":   func(t *rapid.T) { m.ask(peer(t)) },
			"record": func(t *rapid.T) {
				p := peer(t)
				if m.copies = append(m.copies, p); m.move == p {
					m.move = uuid.Nil
				}
			},
			"supersede": func(t *rapid.T) { m.spent[peer(t)] = true },
			"keep anew": func(t *rapid.T) { // the superseded copy was discarded
				if p := peer(t); m.spent[p] {
					delete(m.spent, p)
					m.has[p] = false
				}
			},
			"pull": func(t *rapid.T) {
				p := peer(t)
				if onRecord := slices.Contains(m.copies, p); !onRecord && m.move != uuid.Nil && m.move != p {
					return
				} else if !onRecord {
					m.move = p
				}
				if m.hold.enrol(&m.state, p, m.now) {
					m.hold.enrolled[p] = enrolment{true, m.now}
					m.has[p] = true
				}
			},
			"extend": func(t *rapid.T) {
				if !m.overtaken {
					m.hold.extend(&m.state, m.seen, rapid.Bool().Draw(t, "silent"), m.now)
				}
			},
			"take over": func(t *rapid.T) {
				if !m.takesOver(peer(t)) {
					return
				}
				m.took = true
				takeovers++
			},
			"": func(t *rapid.T) {
				if fenced := m.hold.deadline + max(m.fence, usualFenceTime(boundTTL)); m.took && m.now < fenced {
					t.Fatalf("another node writes at %v, and this one may until %v", m.now, fenced)
				}
			},
		})
	}
	for range rounds {
		rapid.Check(t, run)
	}
	if takeovers < rounds/10 {
		t.Errorf("somebody took over in %d runs: too little was tried", takeovers)
	}
}
