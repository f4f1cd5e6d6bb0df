#!/usr/bin/env bash
# The whole study from one command: games x agents x seeds, then the report. Repeat the command to go on: every run is
# started with --resume, so finished runs are skipped and killed ones continue from their checkpoint.
set -u -o pipefail

# AGENTS, listed here and nowhere else: games, name, k, script and flags. --agents and --exp-name take the name, which
# gets minatar_ before it with MinAtar; GAMES in a script is atari or minatar. k is what the script has by itself: with
# 0 a second agent, NAME_mexp, has k = n; with - there is no layer to which --k could give a k.
table='
Atari          dqn              -  dqn_atari.py
Atari          dqn_mexp         n  dqn_atari_mexp.py
Atari          iqn              -  iqn_atari.py
Atari          iqn_mexp         n  iqn_atari_mexp.py
MinAtar        dqn              -  minatar_mexp.py --mean-scaling-coefficient 0
MinAtar        mexp             n  minatar_mexp.py
MinAtar        iqn              0  related/iqn_minatar.py
LunarLander    lunarlander      n  lunarlander_mexp.py
Atari,MinAtar  nature           0  related/nature_dqn_GAMES.py
Atari,MinAtar  dueling          -  related/dueling_GAMES.py
Atari,MinAtar  rdq              -  related/dueling_GAMES.py --rdq-beta 0.001
Atari,MinAtar  softq            0  related/softq_GAMES.py
Atari,MinAtar  munchausen       0  related/softq_GAMES.py --munchausen 0.9 --entropy-form entropy
Atari,MinAtar  softq_online     -  related/softq_online_GAMES.py --method q
Atari,MinAtar  softq_pg         -  related/softq_online_GAMES.py --method pg
Atari,MinAtar  isdqn            0  related/isdqn_GAMES.py
Atari,MinAtar  isdqn1           0  related/isdqn_GAMES.py --num-iterations 1
Atari,MinAtar  targetfree       0  related/isdqn_GAMES.py --num-iterations 0
Atari,MinAtar  targetbased      0  related/isdqn_GAMES.py --num-iterations 1 --target-network
Atari,MinAtar  targetfree_noln  0  related/isdqn_GAMES.py --num-iterations 0 --no-layer-norm
Atari,MinAtar  eaudeqn          0  related/eaudeqn_GAMES.py
Atari,MinAtar  eaudeqn_w32      0  related/eaudeqn_GAMES.py --width 32
Atari          eaudeqn_w2048    0  related/eaudeqn_GAMES.py --width 2048
MinAtar        eaudeqn_w512     0  related/eaudeqn_GAMES.py --width 512
Atari,MinAtar  polyprune        0  related/eaudeqn_GAMES.py --method polyprune
Atari,MinAtar  dense            0  related/eaudeqn_GAMES.py --method dense
'

# The agents of games `$1`, Atari, MinAtar or LunarLander, a line each: name, k, script and flags
agents_of() {
  while read -r games name k script; do
    [[ ,$games, == *,"$1",* ]] || continue
    [ "$1" != MinAtar ] || name=minatar_$name
    script=${script/GAMES/${1,,}}
    echo "$name $k $script"
    [ "$k" != 0 ] || echo "${name}_mexp - $script --mean-scaling-coefficient n"
  done <<<"$table"
}

# GAMES
minatar=Asterix,Breakout,Freeway,Seaquest,SpaceInvaders
atari5=BattleZone,DoubleDunk,NameThisGame,Phoenix,Qbert
ablation11=$atari5,Alien,Asterix,Seaquest,SpaceInvaders,WizardOfWor,Zaxxon
atari57=Alien,Amidar,Assault,Asterix,Asteroids,Atlantis,BankHeist,BattleZone,BeamRider,Berzerk,Bowling,Boxing,Breakout
atari57+=,Centipede,ChopperCommand,CrazyClimber,Defender,DemonAttack,DoubleDunk,Enduro,FishingDerby,Freeway,Frostbite
atari57+=,Gopher,Gravitar,Hero,IceHockey,Jamesbond,Kangaroo,Krull,KungFuMaster,MontezumaRevenge,MsPacman,NameThisGame
atari57+=,Phoenix,Pitfall,Pong,PrivateEye,Qbert,Riverraid,RoadRunner,Robotank,Seaquest,Skiing,Solaris,SpaceInvaders
atari57+=,StarGunner,Surround,Tennis,TimePilot,Tutankham,UpNDown,Venture,VideoPinball,WizardOfWor,YarsRevenge,Zaxxon
# The numbers of actions: minimal sets of MinAtar; Atari's full set has 18
declare -A num_actions=([Atari/Skiing]=9 [MinAtar/Asterix]=5 [MinAtar/Breakout]=3 [MinAtar/Freeway]=3)
num_actions+=([MinAtar/Seaquest]=6 [MinAtar/SpaceInvaders]=4 [LunarLander/LunarLander]=4)

usage() {
  fold -s -w 120 <<TEXT
usage: bash benchmark.sh SUITE [options] [-- EXTRA]

quick            the gridworld's figures; MinAtar Space Invaders, DQN and IB-DQN, 2 seeds, 200,000 steps
minatar          the five MinAtar games, DQN and IB-DQN, 5 seeds, 5,000,000 steps
atari5           BattleZone, DoubleDunk, NameThisGame, Phoenix, Qbert; 4 agents, 5 seeds, 50,000,000 steps
ablation11       those of atari5, Alien, Asterix, Seaquest, SpaceInvaders, WizardOfWor, Zaxxon; the same
atari57          all 57 games; the same
lunarlander      LunarLander, k of 0, 0.5, 1, 2, 4, 8, 16 and 32, 10 seeds, 100,000 steps

--games LIST     of the 57 Atari games or the five of MinAtar, such as Breakout,Seaquest
--agents LIST    of those of the suite's games, listed below
--k LIST         a sweep: each agent with every k, numbers or n, 2n, 4n (n actions); default: DQN's agent with the layer
--seeds N|LIST   N seeds from 1 on, or a list such as 3,4 (of one: 3,)
--steps N        agent steps of every run
--workers N      runs at a time (default: the GPUs given, or else the cores; with --slurm what Slurm lets run)
--gpus LIST      such as 0,1: shared out among the runs at a time; not with --slurm, which gives each run its own
--out DIR        where runs, logs and report go (default: benchmark/SUITE)
--slurm OPTIONS  submit to Slurm instead, with these options of sbatch, such as "--partition=gpu --gres=gpu:1 --mem=16G"
--dry-run        print every command and stop
-- EXTRA         passed on to the scripts

$(for games in Atari MinAtar LunarLander; do
  echo "agents of $games: $(agents_of "$games" | cut -d" " -f1 | paste -sd, | sed "s/,/, /g")"
done)
TEXT
}

die() { echo "error: $*" >&2; exit 2; }

# ONE RUN, `$1` its name and its command, tried once more if it fails. The last line of its log says what became of it.
# xargs and Slurm start this in shells of their own, which know `out` and `gpus`.
run() {
  local name=${1%% *} command=${1#* } stopped="" child status how signal attempt places log
  log=$out/logs/$name.log
  tell() { printf '\n[%(%F %T)T] %s: %s\n' -1 "$name" "$1" | tee -a "$log" | tail -n 1; }
  if [ -n "$gpus" ]; then # each place among those that run at a time has its GPU
    IFS=, read -ra places <<<"$gpus"
    export CUDA_VISIBLE_DEVICES=${places[SLOT % ${#places[@]}]}
  fi
  for attempt in 1 2; do
    tell "attempt $attempt"
    echo "$command" >>"$log"
    bash -c "exec env $command" >>"$log" 2>&1 & # bash heeds a trap during `wait`, not during a command
    child=$!
    trap 'stopped=yes; kill "$child" 2>/dev/null' TERM
    wait "$child" 2>/dev/null
    status=$?
    if [ -n "$stopped" ]; then
      how="stopped by SIGTERM"
      if [ -n "${SLURM_JOB_ID-}" ] && scontrol show job "$SLURM_JOB_ID" | grep -q Reason=TimeLimit; then
        how="stopped by Slurm's time limit"
      fi
      wait "$child" 2>/dev/null
    elif [ "$status" = 0 ]; then
      how="done"
    elif signal=$([ "$status" -gt 128 ] && kill -l "$status" 2>/dev/null); then
      how="exit status $status, SIG$signal"
      [ "$status" != 137 ] || how+=", out of memory?"
    else
      how="exit status $status"
      how+=$(tac "$log" | sed '/: attempt .$/q' | grep -m 1 -E '^[[:alnum:]_.]*[Ee]rror(: |$)' | sed 's/^/, /')
    fi
    tell "$how"
    [ "$how" != "done" ] || echo "runs done in $out: $(tail -qn 1 "$out"/logs/*.log | grep -c ": done$")"
    [[ -z $stopped && ! $status =~ ^[02]$ ]] || break # with 2 the script refuses its flags
  done
  return $((status != 0)) # 255 would stop xargs
}

# THE END: the report, and which `runs` are not done
finish() {
  local name last status=0
  "$python" "$root/report.py" "$out/runs" --out "$out/report" || echo "no report was made of $out/runs" >&2
  for name in "${runs[@]%% *}"; do
    last=$(tail -n 1 "$out/logs/$name.log" 2>/dev/null)
    [[ $last != "["*" $name: done" ]] || continue
    [[ $last == "["*" $name: "* ]] || last="$name: at work, never begun, or ended without a word"
    echo "not finished: ${last#*] }; log $out/logs/$name.log" >&2
    status=1
  done
  [ "$status" = 0 ] || echo "the same command goes on with what is not finished" >&2
  return "$status"
}

# ARGUMENTS
unset agents
set -f # lists are taken apart at their commas, and nothing in them is a pattern
root=$(CDPATH="" cd -- "$(dirname "${BASH_SOURCE[0]}")" && pwd)
suite=${1-} k_list="" workers="" gpus="" out=benchmark/$suite slurm="" use_slurm="" dry_run=""
case $suite in
  -h | --help) usage && exit ;;
  quick) family=MinAtar games=SpaceInvaders seeds=2 steps=200000 ;;
  minatar) family=MinAtar games=$minatar seeds=5 steps=5000000 ;;
  atari5) family=Atari games=$atari5 seeds=5 steps=50000000 ;;
  ablation11) family=Atari games=$ablation11 seeds=5 steps=50000000 ;;
  atari57) family=Atari games=$atari57 seeds=5 steps=50000000 ;;
  lunarlander) family=LunarLander games=LunarLander seeds=10 steps=100000 k_list=0,0.5,1,2,4,8,16,32 ;;
  *) die "SUITE '$suite' must be quick, minatar, atari5, ablation11, atari57 or lunarlander; see --help" ;;
esac
shift
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case $1 in
    --dry-run) dry_run=yes && shift && continue ;;
    --games) games=${2-} ;;
    --agents) agents=${2-} ;;
    --k) k_list=${2-} ;;
    --seeds) seeds=${2-} ;;
    --steps) steps=${2-} ;;
    --workers) workers=${2-} ;;
    --gpus) gpus=${2-} ;;
    --out) out=${2-} ;;
    --slurm) slurm=${2-} use_slurm=yes ;;
    *) die "unknown option '$1'; see bash benchmark.sh --help" ;;
  esac
  shift 2 || die "$1 needs a value"
done
[ $# -eq 0 ] || shift
extra=$([ $# -eq 0 ] || printf ' %q' "$@")
[[ ! " ${*//_/-} " =~ \ --(env-id|seed|exp-name|total-timesteps|runs-dir|mean-scaling-coefficient)[\ =] ]] ||
  die "--${BASH_REMATCH[1]} after -- would be that of every run; see --games, --seeds, --agents, --steps, --out and --k"
case $family in
  Atari) prefix=ALE/ version=v5 known_games=$atari57 default=dqn,dqn_mexp,iqn,iqn_mexp swept=dqn_mexp ;;
  MinAtar) prefix=MinAtar/ version=v1 known_games=$minatar default=minatar_dqn,minatar_mexp swept=minatar_mexp ;;
  LunarLander) prefix="" version=v3 known_games=LunarLander default=lunarlander swept=lunarlander ;;
esac
[ -z "$k_list" ] || default=$swept
agents=${agents-$default}
[[ $games =~ [^,] && $agents =~ [^,] ]] || die "--games '$games' --agents '$agents' must name one each"
[[ $k_list =~ ^(([0-9]+(\.[0-9]+)?|[24]?n)(,|$))*$ ]] || die "--k '$k_list' must be a list of numbers, n, 2n and 4n"
[[ $steps =~ ^[1-9][0-9]*$ ]] || die "--steps '$steps' must be a whole number, at least 1"
[[ $workers =~ ^([1-9][0-9]*)?$ ]] || die "--workers '$workers' must be a whole number, at least 1"
[[ $seeds =~ ^[0-9]+(,[0-9]+)*,?$ && ! $seeds =~ ^0+$ ]] || die "--seeds '$seeds' must be a number, or a list: 1,2,3"
[[ $seeds == *,* ]] || seeds=$(seq -s, "$seeds")
[[ $gpus =~ ^([0-9]+(,[0-9]+)*)?$ ]] || die "--gpus '$gpus' must be a list such as 0,1"
[ -z "$gpus" ] || [ -z "$use_slurm" ] || die "--gpus cannot be combined with --slurm; ask Slurm: --slurm '--gpus=1'"
out=$(realpath -m -- "$out" 2>/dev/null) || die "--out '$out' names no folder"
readarray -t -d "" options < <(xargs -r printf '%s\0' <<<"$slurm") # its words and quotes, as a shell reads them
wait $! || die "--slurm '$slurm': a quote has no end"
[[ ! " ${options[*]}" =~ \ (-[ad]|--(array|dependency|wrap|signal)) ]] ||
  die "--slurm: benchmark.sh sets --array, --dependency and --wrap; any --signal would end the runs"

# THE RUNS, a name and a command each, by the active Python or .venv's
suitable() { # whether Python `$1` has the packages of requirements.txt
  "$1" -c 'import sys, importlib.metadata as m; [m.version(name) for name in sys.argv[1].split()]' \
    "$(sed -En '/^# testing/q; s/^([[:alnum:]_.-]+).*/\1/p' "$root/requirements.txt")" 2>/dev/null
}
python=$(command -v python || echo python)
[ -n "$dry_run" ] || suitable "$python" || python=$root/.venv/bin/python
declare -A script_of=() listed=()
while read -r name k script; do
  [[ -n $k_list && $k = - ]] || script_of[$name]=$script # --k takes those that have the layer
done < <(agents_of "$family")
k_list=${k_list:-own}
start="OMP_NUM_THREADS=1 $(printf '%q %q' "$python" "$root")"
runs=("tabular $start/tabular_mexp.py --k 0 0.8 3.2 12.8 --seeds 16 --out $(printf %q "$out/tabular")")
[ "$suite" = quick ] || runs=()
for game in ${games//,/ }; do
  [[ ,$known_games, == *,"$game",* ]] || die "--games '$games': '$game' is none of ${known_games//,/, }"
  n=${num_actions[$family/$game]-18}
  [[ $extra != *--no[-_]full[-_]action* ]] || n=-1 # only the scripts know it
  for seed in ${seeds//,/ }; do
    seed=$((10#$seed)) # 01 and 1 are one seed
    for agent in ${agents//,/ }; do
      [ -n "${script_of[$agent]-}" ] || die "--agents '$agents': '$agent' is none of" \
        "$(printf '%s\n' "${!script_of[@]}" | sort | paste -sd' ')"
      for k in ${k_list//,/ }; do
        command=$start/${script_of[$agent]} name=$agent number=$k
        if [ "$k" != own ]; then
          [[ $k != n ]] || number=$n
          [[ $k != [24]n ]] || number=$((${k%n} * n))
          [[ ! $number =~ ^0*(0|[1-9][0-9]*)(\.[0-9]*[1-9])?\.?0*$ ]] || number=${BASH_REMATCH[1]}${BASH_REMATCH[2]}
          name+=_k$k
          command+=" --mean-scaling-coefficient $k"
        fi
        command+=" --env-id $prefix$game-$version --seed $seed --exp-name $name --total-timesteps $steps"
        command+=" --runs-dir $(printf %q "$out/runs") --resume$extra"
        [ -n "${listed[$game,$seed,$agent,$number]-}" ] || runs+=("$game-$name-$seed $command") # n is 4, 4.0 is 4
        listed[$game,$seed,$agent,$number]=yes
      done
    done
  done
done
[ -z "$dry_run" ] || { printf '%s\n' "${runs[@]#* }" && exit; }
if ! suitable "$python"; then
  echo "making $root/.venv: gigabytes to download, most of it PyTorch's CUDA; README.md says how to do without"
  { python3 -m venv "$root/.venv" && "$python" -m pip install -r "$root/requirements.txt"; } ||
    die "no Python environment: installing requirements.txt into .venv failed (see above)"
fi
mkdir -p "$out/runs" "$out/logs" || die "--out $out cannot be written to; name a folder that can"

# A CLUSTER: an array of jobs, then the report. Slurm keeps the scripts, and in them the list. Arrays of one name start
# one after the other: the parts of a list beyond MaxArraySize, and what the same command submits a second time
if [ -n "$use_slurm" ]; then
  most=$(scontrol show config | sed -n 's/^MaxArraySize *= *//p')
  [[ $most =~ ^[1-9][0-9]*$ ]] || die "--slurm: Slurm does not tell its MaxArraySize (see above)"
  needed=$(declare -p root out python gpus runs && declare -f run finish)
  options=(--parsable --job-name="mexp-$(cksum <<<"$out" | cut -d" " -f1)" "${options[@]}")
  jobs=""
  submit() { # `$1` as a batch script, with the options that follow
    job=$(printf '%s\n' '#!/bin/bash' "$needed" "$1" | sbatch "${options[@]}" "${@:2}") ||
      die "sbatch refused (see above)${jobs:+; submitted are jobs ${jobs//:/ }}"
    jobs+=:${job%%;*}
  }
  for ((first = 0; first < ${#runs[@]}; first += most)); do
    last=$((first + most < ${#runs[@]} ? most - 1 : ${#runs[@]} - first - 1))
    submit "run \"\${runs[SLURM_ARRAY_TASK_ID + $first]}\"" --array="0-$last${workers:+%$workers}" --requeue \
      --open-mode=append --output="$out/logs/slurm-%A_%a.log" --dependency=singleton
  done
  submit finish --output="$out/logs/report.log" --dependency="afterany$jobs"
  echo "submitted ${#runs[@]} runs and then the report as jobs${jobs//:/ }; logs in $out/logs, summary in report.log"
  exit
fi

# ONE MACHINE. Bash may lose a Ctrl-C during any command but `wait`: nothing else runs in the foreground
if [ -z "$workers" ]; then # the cores that this process may use, at most a container's quota (cgroup v2, v1)
  workers=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)
  read -r quota period < <(cd /sys/fs/cgroup && { cat cpu.max || paste cpu/cpu.cfs_{quota,period}_us; } 2>/dev/null)
  [[ ! $quota =~ ^[0-9]+$ ]] || ((quota > workers * period)) || workers=$(((quota + period - 1) / period))
  [ -z "$gpus" ] || workers=$(tr , '\n' <<<"$gpus" | wc -l)
fi
stop() {
  trap - INT TERM HUP && group=$(jobs -p)
  kill -- "-$group" 2>/dev/null
  for _ in {1..50}; do kill -0 -- "-$group" 2>/dev/null && sleep 0.2; done
  kill -KILL -- "-$group" 2>/dev/null
  echo "stopped; the same command goes on from the last checkpoints, with runs that have none from their start" >&2
  exit 130
}
trap stop INT TERM HUP
echo "${#runs[@]} runs, $workers at a time; logs in $out/logs, results in $out"
export out gpus
export -f run
set -m # the runs get a process group of their own, which `stop` can end as a whole
printf '%s\0' "${runs[@]}" | xargs -0 -n 1 -P "$workers" --process-slot-var=SLOT bash -c "run \"\$1\"" run &
set +m
wait
finish
