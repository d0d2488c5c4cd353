package dataset

import (
	"sort"
	"strings"
)

// Nearest returns the word of have that is most similar to word, ignoring case. Of several equally similar ones it
// returns the first. Similar means one typing error, or one for every three letters. If no word is similar, it returns
// "".
func Nearest(word string, have []string) string {
	if len(word) > maxWord {
		return ""
	}
	best, within := "", max(1, (len(word)+1)/3)
	for _, h := range have {
		if len(h) > maxWord {
			continue
		}
		if d := distance(strings.ToLower(word), strings.ToLower(h)); d <= within {
			best, within = h, d-1
		}
	}
	return best
}

// Guess returns the end of an error about a word that is none of have: "; did you mean gold?", or "" if none is
// similar.
func Guess(word string, have []string) string {
	if n := Nearest(word, have); n != "" {
		return "; did you mean " + n + "?"
	}
	return ""
}

// maxWord bounds the work that a malicious word can cause; no name is longer.
const maxWord = 128

// Have returns the sorted words, joined for the "(available: …)" part of an error.
func Have(words []string) string {
	s := append([]string(nil), words...)
	sort.Strings(s)
	return strings.Join(s, ", ")
}

// distance is the Damerau-Levenshtein distance with adjacent transpositions, because glod for gold is one typing
// error and not two.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, rows[i-2][j-2]+1)
			}
			rows[i][j] = d
		}
	}
	return rows[len(a)][len(b)]
}
