// Package controlsync keeps this node and control in agreement: Follower applies what control decides, Reporter reports
// what this node sees, and Holdings reports what lies in its pools when control's store has to be brought up to date.
package controlsync
